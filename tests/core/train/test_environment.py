"""Process-wide switches are put back."""

import errno

import pytest
import torch

from core.train.environment import is_out_of_memory, reproducible

CPU = torch.device("cpu")


def test_threads_and_determinism_hold_inside_and_are_undone_after():
    before = torch.get_num_threads()

    with reproducible(threads=before + 1, device=CPU):
        inside = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())

    assert inside == (before + 1, True)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (before, False)


def test_they_are_undone_after_an_error_too():
    before = torch.get_num_threads()

    with pytest.raises(KeyError), reproducible(threads=before + 1, device=CPU):
        raise KeyError

    assert torch.get_num_threads() == before


def test_a_real_refusal_of_memory_is_known_for_one():
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(2**60)

    assert is_out_of_memory(refusal.value)
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("std::bad_alloc"),
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
def test_a_lack_of_memory_is_known_in_whatever_words(error):
    assert is_out_of_memory(error)

    wrapped = ValueError("the model cannot be built")
    wrapped.__cause__ = error

    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_another_trouble_of_the_device_is_no_lack_of_memory(said):
    assert not is_out_of_memory(torch.AcceleratorError(said))


def test_another_trouble_with_a_file_is_no_lack_of_memory():
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
