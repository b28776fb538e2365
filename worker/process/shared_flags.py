"""One byte that a process and everything forked from it share."""

from __future__ import annotations

import mmap


class SharedByte:
    """A number from 0 to 255 that forked processes share. It needs no lock, so signal handlers may write it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def get(self) -> int:
        """The number as it is now, whoever wrote it."""
        return self._memory[0]

    def set(self, number: int) -> None:
        """Write the number for all who share it."""
        self._memory[0] = number


# Made when this module is imported, so before Celery forks: the parent writes, its children read.
DRAIN = SharedByte()  # 1: this worker was asked to end, so save and hand back
# The pool's process writes, the parent reads: 1 once everything that its work needs is imported.
READY = SharedByte()
