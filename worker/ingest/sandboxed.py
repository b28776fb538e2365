"""Asks a process with limits about a file from outside: little memory, no secrets, an end in time."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import core.ingest_errors  # noqa: F401 - only an error whose class is known can be restored
from core.errors import ProcessLost, restore_error
from core.reporting import Control, Interrupted
from core.system.parent_death import die_with_parent
from core.system.sandbox import forgo_privileges

POLL_SECONDS = 0.1  # how soon a drain is seen
MAX_ANSWER_BYTES = 64 * 1024**2
_MAX_OPEN_FILES = 256
_CPU_GRACE_SECONDS = 60  # behind the limit of wall time, for the case that nobody is left to see to that
_STILL_FILE_BYTES = 64 * 1024**2  # indexes beside the largest file

# All that such a process gets to see of this one's environment: keys and passwords are not among it.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """What the process may use. ``file_bytes``: the largest file that it may write."""

    memory_bytes: int
    file_bytes: int
    seconds: float


class OutOfTime(Exception):
    """The process was ended because it took too long."""


class Crashed(Exception):
    """The process ended by itself without an answer; ``how`` says it in words."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def run_sandboxed(
    module: str, question: dict[str, Any], limits: ProcessLimits, *, scratch: Path, control: Callable[[], Control]
) -> dict[str, Any]:
    """Run ``python -m module`` on a question; what it answers as ``ok``, or the error that it answers, raised.

    Raises :class:`OutOfTime`, :class:`Crashed`, ``Interrupted`` for a drain, and ``ProcessLost`` where somebody
    killed it, which says nothing about the file.
    """
    asked, answered = scratch / "question.json", scratch / "answer.json"
    asked.write_text(json.dumps(question))
    with asked.open("rb") as stdin, answered.open("w+b") as stdout:
        process = subprocess.Popen(  # noqa: S603 - a module of ours
            [sys.executable, "-P", "-m", module],
            stdin=stdin,
            stdout=stdout,
            env=_environment(scratch),
            preexec_fn=_preparation(limits),  # noqa: PLW1509 - this process has one thread
        )
        status = _watched(process, limits.seconds, control)
        if status != 0:
            raise _ended(status)
        stdout.seek(0)  # not opened by its name again: it lies in a folder where the process may put other things
        document: dict[str, Any] = json.loads(stdout.read(MAX_ANSWER_BYTES))
    if "error" in document:
        raise restore_error(document["error"])
    return dict(document["ok"])


def _watched(process: subprocess.Popen[bytes], seconds: float, control: Callable[[], Control]) -> int:
    ends = time.monotonic() + seconds
    with process:
        try:
            while True:
                try:
                    return process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if control() is Control.DRAIN:
                        raise Interrupted(Control.DRAIN) from None
                    if time.monotonic() > ends:
                        raise OutOfTime from None
        finally:
            process.kill()  # nothing to do for one that has ended


def _ended(status: int) -> Exception:
    if status == -signal.SIGKILL:
        return ProcessLost("The process that read the file was killed; the machine may be short of memory.")
    if status == -signal.SIGXCPU:
        return OutOfTime()
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    log.warning("limited.crashed", how=how)
    return Crashed(how)


def _environment(scratch: Path) -> dict[str, str]:
    known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**known, **one_thread, "HOME": str(scratch), "TMPDIR": str(scratch), "CUDA_VISIBLE_DEVICES": ""}


def _preparation(limits: ProcessLimits) -> Callable[[], None]:
    parent = os.getpid()
    cpu = math.ceil(limits.seconds) + _CPU_GRACE_SECONDS
    file_bytes = limits.file_bytes + _STILL_FILE_BYTES

    def prepare() -> None:
        die_with_parent(parent)
        for kind, soft, hard in (
            (resource.RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes),  # beyond it: MemoryError
            (resource.RLIMIT_FSIZE, file_bytes, file_bytes),  # EFBIG
            (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES, _MAX_OPEN_FILES),
            (resource.RLIMIT_CPU, cpu, cpu + 5),  # SIGXCPU, then SIGKILL
            (resource.RLIMIT_CORE, 0, 0),
        ):
            _, most = resource.getrlimit(kind)
            if most == resource.RLIM_INFINITY:
                resource.setrlimit(kind, (soft, hard))
            else:
                resource.setrlimit(kind, (min(soft, most), min(hard, most)))
        forgo_privileges()

    return prepare
