"""Process groups of one process; tests/core/test_rank_main.py tests several."""

import os

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from core.train import process_group
from core.train.process_group import (
    SINGLE_PROCESS,
    FileRendezvous,
    ProcessGroup,
    convert_batch_norm,
    init_process_group,
    is_connection_error,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_single_process_calls_the_method_directly(make_setup, training):
    setup = make_setup(training())

    assert SINGLE_PROCESS.wrap_terms(setup.student.module, setup.method) == setup.method.terms
    assert SINGLE_PROCESS.reduce_mean(torch.ones(3), 1.0).tolist() == [1, 1, 1]


def test_a_single_process_waits_for_no_other():
    calls = []
    SINGLE_PROCESS.rank_zero_first(lambda: calls.append(1))

    assert calls == [1]


def test_losses_of_unequal_parts_are_weighted_by_size():
    assert ProcessGroup(0, 2).loss_scale(0.5) == 1.0
    # After DDP's division by two, 4 of 7 samples have weight 4/7.
    assert ProcessGroup(0, 2).loss_scale(4 / 7) / 2 == pytest.approx(4 / 7)


def test_a_group_of_one_is_initialized_and_destroyed(tmp_path):
    with init_process_group(FileRendezvous(tmp_path / "store"), rank=0, world_size=1, device=CPU) as ranks:
        assert torch.distributed.get_world_size() == 1
        assert (ranks.rank, ranks.world_size) == (0, 1)

    assert not torch.distributed.is_initialized()


def test_the_environment_is_restored_and_a_configured_interface_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen0")
    before = dict(os.environ)
    with process_group._loopback_interface():
        assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen0"
        assert os.environ["NCCL_SOCKET_IFNAME"] == "lo"

    assert dict(os.environ) == before


def test_batch_norms_are_synchronized_on_cuda_only_and_keep_names_and_activation():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), BatchNormAct2d(2), nn.BatchNorm2d(2))
    names = set(module.state_dict())
    assert convert_batch_norm(module, ProcessGroup(0, 2), CPU) is module
    assert convert_batch_norm(module, SINGLE_PROCESS, CUDA) is module
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
    images = torch.randn(3, 1, 4, 4)
    before = module.eval()(images)

    converted = convert_batch_norm(module, ProcessGroup(0, 2), CUDA)

    assert sum(isinstance(part, nn.SyncBatchNorm) for part in converted.modules()) == 2
    assert set(converted.state_dict()) == names
    assert converted.eval()(images).equal(before)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.0.0.2]:4: Connection reset", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_lost_connection_is_distinguished_from_an_error_of_the_network(message, expected):
    assert is_connection_error(RuntimeError(message)) is expected
