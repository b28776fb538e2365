"""Disk errors raise `StorageFailed`, whichever library writes, and leave no partial file."""

import errno
import os
import resource
from contextlib import contextmanager

import pytest
import torch

from core.errors import StorageFailed
from core.models.weights import write_weights
from core.system.disk import write_atomic, writing
from core.train.checkpoint import TrainState, write_checkpoint


@contextmanager
def max_file_bytes(num_bytes):
    """Limit the file size of this process, like a full disk: writes beyond it fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def trained():
    module = torch.nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 200)).sum().backward()
    optimizer.step()
    return TrainState(student=module, method=torch.nn.Module(), optimizer=optimizer)


def test_a_checkpoint_that_does_not_fit_is_absent(trained, tmp_path):
    with pytest.raises(StorageFailed, match="checkpoint at step 7"), max_file_bytes(1024):
        write_checkpoint(tmp_path / "distill-7", trained, step=7)

    assert not (tmp_path / "distill-7").exists()


def test_a_checkpoint_whose_state_does_not_fit_is_absent(trained, tmp_path):
    max_bytes = 200_000  # the weights have 160 kB, the state 320 kB
    with pytest.raises(StorageFailed, match="checkpoint at step 7"), max_file_bytes(max_bytes):
        write_checkpoint(tmp_path / "distill-7", trained, step=7)

    assert not (tmp_path / "distill-7").exists()


def test_weights_and_documents_that_do_not_fit_are_absent(trained, tmp_path):
    with pytest.raises(StorageFailed, match=r"model\.safetensors cannot be written"), max_file_bytes(1024):
        write_weights(trained.student, tmp_path / "model.safetensors")
    with pytest.raises(StorageFailed, match=r"report\.json cannot be written"), max_file_bytes(1024):
        write_atomic(tmp_path / "report.json", b"x" * 10_000)

    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_the_message_names_the_fix(number):
    with pytest.raises(StorageFailed, match="retry the job"), writing("report.json"):
        raise OSError(number, os.strerror(number))


def test_other_errors_are_not_disk_errors():
    with pytest.raises(KeyError), writing("report.json"):
        raise KeyError("a bug")
