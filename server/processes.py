"""Child processes that never outlive their parent, with their output in rotated files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import IO

LOG_BYTES = 10 * 1024**2  # of one file; with its predecessors at most four times that
LOG_PREDECESSORS = 3
FIRST_DELAY = 0.2  # seconds before the first restart
LONGEST_DELAY = 15.0  # seconds
STEADY_SECONDS = 30.0  # a process that lived for so long starts with the first delay again

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Make grandchildren whose parent died children of this process, so that none is out of reach."""
    if _libc is not None and _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, however that happens.

    The signal comes at the end of the *thread* that forked, so the parent must fork from its main thread.
    """
    if _libc is None:
        return
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before prctl: no signal will come
        os.kill(os.getpid(), signal.SIGKILL)


class RotatedLog:
    """A log file that never grows beyond ``LOG_BYTES``; ``name.log.1`` is its youngest predecessor.

    A disk that refuses costs lines, and never whoever writes them: a full one must not end the whole stack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._lost_bytes = 0

    def write(self, data: bytes) -> None:
        """Append, rotating first where the file is full; where the disk refuses, say so once it takes lines again."""
        try:
            if self._file.tell() + len(data) > LOG_BYTES:
                self._rotate()
            if self._lost_bytes:
                self._file.write(b"(%d bytes are missing here: the disk refused them)\n" % self._lost_bytes)
                self._lost_bytes = 0
            self._file.write(data)
        except OSError:
            self._lost_bytes += len(data)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _open(self) -> FileIO:
        # Without a buffer: what the disk refused would be left in it, for the next write to fail with.
        return self.path.open("ab", buffering=0)

    def _rotate(self) -> None:
        for number in range(LOG_PREDECESSORS, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        full, self._file = self._file, self._open()
        full.close()


@dataclass(frozen=True, slots=True)
class Role:
    """One process of the stack: its name, its command line, its environment, and whether it is to come back."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    restart: bool = True


@dataclass(slots=True)
class Child:
    """A role's process through its lives: running, gone, or waiting for its restart."""

    role: Role
    log: RotatedLog
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    delay: float = FIRST_DELAY
    unfinished: bytes = field(default=b"", repr=False)  # of a line that is still being written

    @property
    def pid(self) -> int | None:
        """The process id, where the process runs."""
        return self.process.pid if self.process is not None else None

    @property
    def output(self) -> IO[bytes]:
        """The pipe with what the running process prints."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout

    def start(self) -> None:
        """Start the process, in a process group of its own: a Ctrl-C in the terminal is the supervisor's to handle."""
        parent = os.getpid()
        self.process = subprocess.Popen(  # noqa: S603 - our own command line
            list(self.role.command),
            env=dict(self.role.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - the supervisor has one thread
        )
        os.set_blocking(self.output.fileno(), False)
        self.started_at = time.monotonic()
        self.restart_at = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, where the process still runs."""
        if self.process is not None:
            os.kill(self.process.pid, number)  # Popen's own would reap it first, behind the supervisor's back

    def read(self) -> list[bytes]:
        """Keep what the process printed; return the whole lines of it."""
        try:
            data = os.read(self.output.fileno(), 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            return []
        self.log.write(data)
        *lines, self.unfinished = (self.unfinished + data).split(b"\n")
        return lines

    def ended(self, status: int, *, restart: bool) -> None:
        """Take note that the process has ended; plan its restart, later each time it fails early."""
        assert self.process is not None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.output.close()
        self.process = None
        self.unfinished = b""
        if not restart:
            return
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self.delay = FIRST_DELAY
        self.postpone()

    def postpone(self) -> None:
        """Plan the next start, each time later than the last."""
        self.restart_at = time.monotonic() + self.delay
        self.delay = min(2 * self.delay, LONGEST_DELAY)
