"""Process-wide torch settings for reproducible runs, and detection of out-of-memory errors."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic

# Messages of torch's allocators, errno, C++, ONNX Runtime and Python; then of the CUDA libraries that have their own
# allocators: cuBLAS, cuSOLVER, cuFFT and cuDNN before version 9, cuDNN since version 9, NCCL.
_OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory", "cannot allocate memory", "failed to allocate memory", "not enough memory",
    "out of memory", "bad_alloc", "bad allocation", "memoryerror",
    "alloc_failed", "allocation_failed", "failed to cuda calloc",
)  # fmt: skip

_ONEDNN_OUT_OF_MEMORY = "could not create a primitive"  # the full message; with "descriptor" it is another error

_MALLOC_THRESHOLDS = (-1, -3)  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_RETAINED_BYTES = 2**31 - 1  # the largest int


@contextmanager
def reproducible(*, threads: int, device: torch.device) -> Iterator[None]:
    """Set the number of CPU threads and, on a CPU, deterministic kernels; restore both on exit.

    The number of threads determines the order of sums and so the last bits of a result. CUDA runs are not promised to
    be bit-identical, because deterministic kernels are slower there.

    On a CPU, the process also retains freed memory from then on (:func:`retain_freed_memory`).
    """
    before_threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    before_fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs time
        retain_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before_threads)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before_fill  # type: ignore[attr-defined]


def retain_freed_memory() -> bool:
    """Make glibc's ``malloc`` retain freed memory; return False where the C library has no such setting.

    By default it returns the activations of a step to the system, and the next step takes 15,000 to 35,000 page faults
    for 32 images of 224 pixels: about a tenth of its time. The peak of memory is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, _RETAINED_BYTES) == 1 for option in _MALLOC_THRESHOLDS)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, means that the device or the process is out of memory."""
    cause: BaseException | None = error
    while cause is not None:
        if _is_memory_error(cause):
            return True
        cause = cause.__cause__
    return False


def _is_memory_error(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    has_message = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return has_message and (str(error) == _ONEDNN_OUT_OF_MEMORY or mentions_out_of_memory(str(error)))


def mentions_out_of_memory(text: str) -> bool:
    """Return whether a log or an error message reports a failed allocation."""
    return any(message in text.lower() for message in _OUT_OF_MEMORY_MESSAGES)
