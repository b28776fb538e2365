"""Run a module on an untrusted file, in a process with limited memory, file sizes and time, and without secrets."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import core.ingest_errors  # noqa: F401 - restore_error() needs the imported classes
from core.errors import ProcessLost, restore_error
from core.ingest.progress_record import read_progress
from core.reporting import Control, Interrupted
from core.system.parent_death import die_with_parent
from core.system.sandbox import set_no_new_privs

POLL_SECONDS = 0.1  # delay until a drain is seen
MAX_RESPONSE_BYTES = 64 * 1024**2
_MAX_OPEN_FILES = 256
_WALL_FACTOR, _MIN_WALL_SECONDS = 4, 60.0  # a busy machine gives the process a part of a core
_EXTRA_FILE_BYTES = 64 * 1024**2  # for indexes beyond the largest file

# The environment variables that the process inherits; none of them is a key or a password.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """Limits of the process. ``file_bytes``: size of the largest file that it may write; ``seconds``: processor time.

    ``wall_seconds``: time until the process counts as lost; None: four times ``seconds``, and a minute.
    """

    memory_bytes: int
    file_bytes: int
    seconds: float
    wall_seconds: float | None = None


class SandboxTimeout(Exception):
    """The process was killed because it exceeded its limit of processor time."""


class SandboxCrashed(Exception):
    """The process ended without a response; ``reason`` is its signal or exit status in words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def run_sandboxed(
    module: str,
    request: dict[str, Any],
    limits: ProcessLimits,
    *,
    scratch: Path,
    control: Callable[[], Control],
    on_progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Run ``python -m module``; write the request to its stdin and return the ``ok`` of its JSON response.

    With ``on_progress``, the request also has ``progress_fd``, the descriptor of the file for
    ``core.ingest.progress_record``; each new record is reported.

    Raises the ``error`` of the response, :class:`SandboxTimeout`, :class:`SandboxCrashed`, ``Interrupted`` after a
    drain, or ``ProcessLost``, which is no fault of the file, if another process killed it or it got too little time.
    """
    request_path, response_path = scratch / "request.json", scratch / "response.json"
    with response_path.open("w+b") as stdout, tempfile.TemporaryFile(dir=scratch) as progress:
        if on_progress is not None:
            request = {**request, "progress_fd": progress.fileno()}
        request_path.write_text(json.dumps(request))

        def poll() -> None:
            if control() is Control.DRAIN:
                raise Interrupted(Control.DRAIN)
            if on_progress is not None and (record := read_progress(progress.fileno())) is not None:
                on_progress(*record)

        with request_path.open("rb") as stdin:
            process = subprocess.Popen(  # noqa: S603 - a module of this package
                [sys.executable, "-P", "-m", module],
                stdin=stdin,
                stdout=stdout,
                env=_environment(scratch),
                pass_fds=() if on_progress is None else (progress.fileno(),),
                preexec_fn=_make_preexec(limits),  # noqa: PLW1509 - this process has one thread
            )
        wall_seconds = limits.wall_seconds or _WALL_FACTOR * limits.seconds + _MIN_WALL_SECONDS
        status = _wait(process, wall_seconds, poll)
        if status != 0:
            raise _exit_error(status)
        stdout.seek(0)  # not reopened by name: the process could replace the file
        response: dict[str, Any] = json.loads(stdout.read(MAX_RESPONSE_BYTES))
    if "error" in response:
        raise restore_error(response["error"])
    return dict(response["ok"])


def _wait(process: subprocess.Popen[bytes], seconds: float, poll: Callable[[], None]) -> int:
    deadline = time.monotonic() + seconds
    with process:
        try:
            while True:
                try:
                    return process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    poll()
                    if time.monotonic() > deadline:
                        raise ProcessLost(
                            f"The process that read the file did not end within {seconds:g} s; the machine is busy, or "
                            "a disk does not respond."
                        ) from None
        finally:
            process.kill()  # no effect on a process that has ended


def _exit_error(status: int) -> Exception:
    if status == -signal.SIGKILL:
        return ProcessLost("The process that read the file was killed; the machine may be short of memory.")
    if status == -signal.SIGXCPU:
        return SandboxTimeout()
    reason = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    log.warning("sandbox.crashed", reason=reason)
    return SandboxCrashed(reason)


def _environment(scratch: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**inherited, **one_thread, "HOME": str(scratch), "TMPDIR": str(scratch), "CUDA_VISIBLE_DEVICES": ""}


def _make_preexec(limits: ProcessLimits) -> Callable[[], None]:
    parent = os.getpid()
    cpu = math.ceil(limits.seconds)
    file_bytes = limits.file_bytes + _EXTRA_FILE_BYTES

    def preexec() -> None:
        die_with_parent(parent)
        for kind, soft, hard in (
            (resource.RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes),  # beyond it: MemoryError
            (resource.RLIMIT_FSIZE, file_bytes, file_bytes),  # EFBIG
            (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES, _MAX_OPEN_FILES),
            (resource.RLIMIT_CPU, cpu, cpu + 5),  # SIGXCPU, then SIGKILL
            (resource.RLIMIT_CORE, 0, 0),
        ):
            _, max_limit = resource.getrlimit(kind)
            if max_limit == resource.RLIM_INFINITY:
                resource.setrlimit(kind, (soft, hard))
            else:
                resource.setrlimit(kind, (min(soft, max_limit), min(hard, max_limit)))
        set_no_new_privs()

    return preexec
