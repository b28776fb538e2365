"""A process forked for one job or ingest, from a process that has only imported modules.

The fork takes milliseconds; an import of torch takes seconds. OpenMP threads, heap growth and crashes of a job end with
its process.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
from collections.abc import Callable

import structlog

from core.system.parent_death import EXIT_CRASHED, die_with_parent

log = structlog.get_logger(__name__)


class ForkedProcess:
    """A forked process that dies with its parent. It ignores SIGTERM and SIGINT: its parent requests the exit.

    Fork from the main thread only: the kernel sends the death signal at the end of the forking *thread*. Close
    connections first: the two processes must not share them.
    """

    def __init__(self, work: Callable[[], int]) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run_child(parent, work)
        self._pidfd = os.pidfd_open(self.pid)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self.status: int | None = None
        self.peak_bytes: int | None = None  # of resident memory, set when the process has ended

    def wait(self, seconds: float) -> int | None:
        """Wait up to ``seconds``; return the exit status (negative: the signal that ended it), or None if it runs."""
        if self.status is None and self._poll.poll(max(0.0, seconds) * 1000):
            _, status, usage = os.wait4(self.pid, 0)
            self.peak_bytes = usage.ru_maxrss * 1024  # from KiB
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self._pidfd)
        return self.status

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.status is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        if self.status is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.wait(60.0)


def limit_memory(num_bytes: int) -> None:
    """Limit the memory of this process and of each process that it starts, mapped files excluded.

    An allocation beyond the limit raises ``MemoryError``, before the machine runs out of memory.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, hard))


def remove_memory_limit() -> None:
    """Undo :func:`limit_memory`, so that this process can report its error."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _run_child(parent: int, work: Callable[[], int]) -> None:
    """Call ``work`` and exit with its status; never return into the parent's stack frames."""
    status = EXIT_CRASHED
    try:
        die_with_parent(parent)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        status = work()
    except BaseException:
        log.exception("process.failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
