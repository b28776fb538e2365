"""The process-wide switches that decide whether the same run gives the same bits."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic

# In the words of torch's allocators, errno, C++, ONNX Runtime and Python; then of CUDA's libraries, which allocate
# beside torch: cuBLAS, cuSOLVER, cuFFT and cuDNN before version 9, cuDNN from there on, NCCL.
_NO_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "failed to allocate memory", "not enough memory",
    "out of memory", "bad_alloc", "bad allocation", "memoryerror",
    "alloc_failed", "allocation_failed", "failed to cuda calloc",
)  # fmt: skip


@contextmanager
def reproducible(*, threads: int, device: torch.device) -> Iterator[None]:
    """Compute with this many CPU threads, and on a CPU by deterministic kernels alone; undone on leaving.

    The number of threads decides the order of sums and so the last bits of a result. On CUDA kernels are
    left free: there the same bits are not promised, and deterministic ones cost speed.
    """
    before_threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    before_fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # not for free
    try:
        yield
    finally:
        torch.set_num_threads(before_threads)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before_fill  # type: ignore[attr-defined]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that the device or the process has no memory left."""
    seen: BaseException | None = error
    while seen is not None:
        if _says_so(seen):
            return True
        seen = seen.__cause__
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    speaks = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return speaks and tells_of_no_memory(str(error))


def tells_of_no_memory(said: str) -> bool:
    """Whether the last words of a process say so."""
    return any(words in said.lower() for words in _NO_MEMORY)
