"""Bytes shared between a process and the processes forked from it."""

from __future__ import annotations

import mmap


class SharedByte:
    """An integer from 0 to 255 in shared memory. It needs no lock, so signal handlers can write it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def get(self) -> int:
        """Return the current value."""
        return self._memory[0]

    def set(self, number: int) -> None:
        """Set the value in all processes that share it."""
        self._memory[0] = number


# Created at import, before Celery forks. The parent writes DRAIN, its children read it.
DRAIN = SharedByte()  # 1: this worker shuts down; save and release
# The pool's process writes READY, the parent reads it.
READY = SharedByte()  # 1: all modules that a job or ingest needs are imported
