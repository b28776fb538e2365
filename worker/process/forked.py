"""A fresh process for one piece of work: forked from a process that has everything imported and did nothing.

The fork costs milliseconds where importing torch costs seconds, and what a job does to its process
(OpenMP threads, a grown heap, a crash) ends with it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
from collections.abc import Callable

import structlog

from core.system.parent_death import CRASHED, die_with_parent

log = structlog.get_logger(__name__)


class ForkedProcess:
    """A forked process that dies with its parent. It ignores SIGTERM: who ends it says so by other means.

    Fork from the main thread only: the kernel's death signal comes at the end of the forking *thread*. And
    close connections before: the two processes must not share them.
    """

    def __init__(self, work: Callable[[], int]) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_child(parent, work)
        self._pidfd = os.pidfd_open(self.pid)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self.status: int | None = None
        self.peak_bytes: int | None = None  # of resident memory, once it has ended

    def wait(self, seconds: float) -> int | None:
        """Wait for at most so long; the exit status (negative: the signal that ended it), or None."""
        if self.status is None and self._poll.poll(max(0.0, seconds) * 1000):
            _, status, used = os.wait4(self.pid, 0)
            self.peak_bytes = used.ru_maxrss * 1024  # counted in kibibytes
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self._pidfd)
        return self.status

    def signal(self, number: int) -> None:
        """Send it a signal; nothing to do for one that has ended."""
        if self.status is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End it by force and wait for its end."""
        if self.status is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.wait(60.0)


def limit_memory(num_bytes: int) -> None:
    """Let this process, and what it starts, ask for no more memory than this beyond mapped files.

    Beyond it an allocation fails (``MemoryError``), instead of the machine running out for everybody.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, hard))


def lift_memory_limit() -> None:
    """Take :func:`limit_memory` back, for what this process still has to say."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _be_the_child(parent: int, work: Callable[[], int]) -> None:
    """Work and exit; never return into the parent's stack of frames."""
    status = CRASHED
    try:
        die_with_parent(parent)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        status = work()
    except BaseException:
        log.exception("process.crashed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
