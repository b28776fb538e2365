"""What ranks say to each other, as far as one process can tell; tests/core/test_rank_main.py has two."""

import os

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from core.train import process_group as ranks_module
from core.train.process_group import SINGLE_PROCESS, ProcessGroup, init_process_group, synchronised

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_alone_a_step_is_the_methods_own(task, training):
    whole = task(training())

    assert SINGLE_PROCESS.terms(whole.student.module, whole.method) == whole.method.terms
    assert SINGLE_PROCESS.whole(torch.ones(3), 1.0).tolist() == [1, 1, 1]


def test_alone_nobody_is_waited_for():
    done = []
    SINGLE_PROCESS.after_first(lambda: done.append(1))

    assert done == [1]


def test_losses_of_unlike_parts_weigh_by_their_size():
    assert ProcessGroup(0, 2).factor(0.5) == 1.0
    # DDP divides by two: 4 of 7 samples count 4/7 in the end.
    assert ProcessGroup(0, 2).factor(4 / 7) / 2 == pytest.approx(4 / 7)


def test_a_group_of_one_meets_and_parts(tmp_path):
    with init_process_group(tmp_path / "meeting", rank=0, size=1, device=CPU) as ranks:
        assert torch.distributed.get_world_size() == 1
        assert (ranks.rank, ranks.size) == (0, 1)

    assert not torch.distributed.is_initialized()


def test_the_environment_is_as_before_and_a_chosen_interface_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen0")
    before = dict(os.environ)
    with ranks_module._on_this_machine():
        assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen0"
        assert os.environ["NCCL_SOCKET_IFNAME"] == "lo"

    assert dict(os.environ) == before


def test_batch_norms_are_synchronised_on_cuda_alone_and_keep_names_and_activation():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), BatchNormAct2d(2), nn.BatchNorm2d(2))
    names = set(module.state_dict())
    assert synchronised(module, ProcessGroup(0, 2), CPU) is module
    assert synchronised(module, SINGLE_PROCESS, CUDA) is module
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
    pictures = torch.randn(3, 1, 4, 4)
    before = module.eval()(pictures)

    converted = synchronised(module, ProcessGroup(0, 2), CUDA)

    assert sum(isinstance(part, nn.SyncBatchNorm) for part in converted.modules()) == 2
    assert set(converted.state_dict()) == names
    assert converted.eval()(pictures).equal(before)
