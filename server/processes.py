"""Child processes that end with their parent, with rotated log files."""

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

from core.system.parent_death import die_with_parent

LOG_BYTES = 10 * 1024**2  # per file
NUM_ROTATED_LOGS = 3
FIRST_DELAY_SECONDS = 0.2  # before the first restart
MAX_DELAY_SECONDS = 15.0
STEADY_SECONDS = 30.0  # a longer lifetime resets the restart delay

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants (Linux child subreaper), so that they can be killed."""
    if _libc is not None and _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class RotatedLog:
    """A log file of at most ``LOG_BYTES``; ``name.log.1`` is the most recent rotated file.

    A disk error loses lines but never raises: a full disk must not stop the stack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._lost_bytes = 0

    def write(self, data: bytes) -> None:
        """Append to the file and rotate a full one. After a disk error, log the number of lost bytes."""
        try:
            if self._file.tell() + len(data) > LOG_BYTES:
                self._rotate()
            if self._lost_bytes:
                self._file.write(b"(%d bytes were lost: the disk could not be written)\n" % self._lost_bytes)
                self._lost_bytes = 0
            self._file.write(data)
        except OSError:
            self._lost_bytes += len(data)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _open(self) -> FileIO:
        # Unbuffered: a buffer would keep unwritten bytes, and the next write would fail again.
        return self.path.open("ab", buffering=0)

    def _rotate(self) -> None:
        for number in range(NUM_ROTATED_LOGS, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        full, self._file = self._file, self._open()
        full.close()


@dataclass(frozen=True, slots=True)
class Role:
    """Name, command line, environment and restart policy of one process of the stack."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    restart: bool = True


@dataclass(slots=True)
class Child:
    """State of a role's process: running, ended, or waiting for its restart."""

    role: Role
    log: RotatedLog
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    delay: float = FIRST_DELAY_SECONDS
    partial_line: bytes = field(default=b"", repr=False)  # output after the last line break

    @property
    def pid(self) -> int | None:
        """The process id; None if the process is not running."""
        return self.process.pid if self.process is not None else None

    @property
    def output(self) -> IO[bytes]:
        """The pipe with the process's output."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout

    def start(self) -> None:
        """Start the process in its own process group, so that Ctrl-C reaches only the supervisor."""
        parent = os.getpid()
        self.process = subprocess.Popen(  # noqa: S603 - our own command line
            list(self.role.command),
            env=dict(self.role.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - the supervisor has one thread
        )
        os.set_blocking(self.output.fileno(), False)
        self.started_at = time.monotonic()
        self.restart_at = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process is running."""
        if self.process is not None:
            os.kill(self.process.pid, number)  # Popen.send_signal would reap the process, which the supervisor does

    def read(self) -> list[bytes]:
        """Log the available output and return its complete lines."""
        try:
            data = os.read(self.output.fileno(), 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            return []
        self.log.write(data)
        *lines, self.partial_line = (self.partial_line + data).split(b"\n")
        return lines

    def record_exit(self, status: int, *, restart: bool) -> None:
        """Record the exit and schedule the restart, with a growing delay after early failures."""
        assert self.process is not None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.output.close()
        self.process = None
        self.partial_line = b""
        if not restart:
            return
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self.delay = FIRST_DELAY_SECONDS
        self.schedule_restart()

    def schedule_restart(self) -> None:
        """Schedule the next start and double the delay."""
        self.restart_at = time.monotonic() + self.delay
        self.delay = min(2 * self.delay, MAX_DELAY_SECONDS)
