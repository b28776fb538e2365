"""Process-wide settings, and detection of out-of-memory errors."""

import ctypes
import errno
import platform

import pytest
import torch

from core.train.environment import is_out_of_memory, reproducible, retain_freed_memory

CPU = torch.device("cpu")


def test_threads_and_determinism_are_set_inside_and_restored_after():
    before = torch.get_num_threads()

    with reproducible(threads=before + 1, device=CPU):
        inside = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())

    assert inside == (before + 1, True)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (before, False)


def test_settings_are_restored_after_an_error():
    before = torch.get_num_threads()

    with pytest.raises(KeyError), reproducible(threads=before + 1, device=CPU):
        raise KeyError

    assert torch.get_num_threads() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_glibc_accepts_the_setting_that_retains_freed_memory():
    assert retain_freed_memory()


def test_another_c_library_keeps_its_own_rules(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())

    assert not retain_freed_memory()


def test_a_failed_allocation_is_out_of_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)

    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul primitive"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        torch.distributed.DistBackendError(
            "NCCL error in: …, unhandled cuda error\nLast error:\nFailed to CUDA calloc 10485760 bytes"
        ),
    ],
)
def test_out_of_memory_errors_of_all_libraries_are_detected(error):
    assert is_out_of_memory(error)

    wrapped = ValueError("the model cannot be built")
    wrapped.__cause__ = error

    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_other_device_errors_are_not_out_of_memory(message):
    assert not is_out_of_memory(torch.AcceleratorError(message))


def test_a_full_disk_is_not_out_of_memory():
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
