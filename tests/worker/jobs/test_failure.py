"""The code and fault of each error that a job can raise."""

import errno

import pytest

from core.errors import (
    DatasetRejected,
    ExportMismatch,
    InvalidSpec,
    NonFiniteLoss,
    NotFound,
    OutOfMemory,
    SpecCannotRun,
    StorageFailed,
    Unavailable,
    WeightsMismatch,
)
from core.settings import Settings
from core.train.environment import is_out_of_memory
from worker.jobs import failure


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (SpecCannotRun("x"), "spec_cannot_run", "spec"),
        (NonFiniteLoss("x"), "non_finite_loss", "spec"),
        (InvalidSpec("x"), "invalid_spec", "spec"),
        (NotFound("x"), "not_found", "spec"),
        (WeightsMismatch("x"), "weights_mismatch", "data"),
        (DatasetRejected("x"), "dataset_rejected", "data"),
        (OutOfMemory("x"), "out_of_memory", "capacity"),
        (MemoryError(), "out_of_memory", "capacity"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "capacity"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "capacity"),
        (StorageFailed("x"), "storage_failed", "infrastructure"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_failed", "infrastructure"),
        (OSError(errno.EROFS, "Read-only file system"), "storage_failed", "infrastructure"),
        (PermissionError(errno.EACCES, "Permission denied"), "storage_failed", "infrastructure"),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), "storage_failed", "infrastructure"),
        (Unavailable("x"), "unavailable", "infrastructure"),
        (ExportMismatch("x"), "export_mismatch", "service"),
        (ZeroDivisionError("x"), "internal_error", "service"),
    ],
)
def test_an_error_has_its_code_and_fault(tmp_path, error, code, fault):
    cause = failure.from_error(error, Settings(home=tmp_path), out_of_memory=is_out_of_memory(error))

    assert (cause.code, cause.fault) == (code, fault)
    assert cause.machine["memory_bytes"] > 10**6


def test_an_internal_error_shows_no_secret_and_is_short(tmp_path):
    error = ValueError("cannot connect to postgresql://u:pass-word@db/x" + "!" * 10_000)

    cause = failure.from_error(error, Settings(home=tmp_path), out_of_memory=False)

    assert cause.message.startswith("ValueError: cannot connect to postgresql://")
    assert "pass-word" not in cause.message
    assert len(cause.message) <= 2_000
