"""Start, monitor and end the processes of ranks 1 and above of a data-parallel training.

Rank 0 is the job's own process. It alone reports, saves checkpoints and receives control requests. The other ranks are
stateless: they get everything from their :class:`RankConfig`, can be killed at any time, and die with rank 0. They are
new processes, not forks, because rank 0 has threads and possibly a CUDA context.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import torch

from core.errors import (
    KilledForMemory,
    OutOfMemory,
    PotstillError,
    ProcessLost,
    error_document,
    restore_error,
)
from core.reporting import Workspace
from core.spec import JobSpec, parse_job_spec
from core.system.disk import write_atomic
from core.system.oom_kills import OomKillMonitor
from core.system.parent_death import EXIT_CRASHED, EXIT_OUT_OF_MEMORY
from core.train.context import threads_per_rank
from core.train.environment import mentions_out_of_memory
from core.train.process_group import SINGLE_PROCESS, ProcessGroup, init_process_group

MODULE = "core.rank_main"
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_FAILURE_TIMEOUT_SECONDS = 3.0  # after an error in rank 0, to find the rank whose exit caused it
_HANG_TIMEOUT_SECONDS = 30.0  # after the exit of another rank, until rank 0 is ended if it still waits
_LOG_TAIL_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """Everything that another rank needs to build the same training.

    ``ranks_dir`` holds the files that the ranks exchange. ``teachers`` maps the fingerprints of the teachers that the
    job trained to their folders. ``checkpoint`` is the folder that all ranks resume from.
    """

    ranks_dir: str
    spec: str
    root: str
    cache: str
    dataset: str
    models: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    teacher_cache_bytes: int = 0
    pixel_cache_bytes: int = 0
    teachers: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    @classmethod
    def from_spec(
        cls, spec: JobSpec, workspace: Workspace, *, teachers: Mapping[str, Path], checkpoint: Path | None
    ) -> Self:
        """Build the configuration of a job's ranks, with absolute paths."""

        def paths(folders: Mapping[str, Path]) -> dict[str, str]:
            return {name: str(folder.resolve()) for name, folder in folders.items()}

        root = workspace.root.resolve()
        return cls(
            ranks_dir=str(root / "ranks"),
            spec=spec.model_dump_json(),
            root=str(root),
            cache=str(workspace.cache.resolve()),
            dataset=str(workspace.dataset.resolve()),
            models=paths(workspace.models),
            datasets=paths(workspace.datasets),
            teacher_cache_bytes=workspace.teacher_cache_bytes,
            pixel_cache_bytes=workspace.pixel_cache_bytes,
            teachers=paths(teachers),
            checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a configuration file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self) -> Path:
        """Write the configuration file to an emptied ``ranks_dir``; return its path."""
        path = Path(self.ranks_dir) / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.iterdir():  # of an earlier attempt
            leftover.unlink()
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    def parse_spec(self) -> JobSpec:
        """Parse the job's spec."""
        return parse_job_spec(json.loads(self.spec))

    def workspace(self, rank: int) -> Workspace:
        """Return the workspace of a rank, which writes to the shared cache only."""
        return Workspace(
            root=Path(self.root) / f"rank-{rank}",
            cache=Path(self.cache),
            dataset=Path(self.dataset),
            models={name: Path(folder) for name, folder in self.models.items()},
            datasets={name: Path(folder) for name, folder in self.datasets.items()},
            teacher_cache_bytes=self.teacher_cache_bytes,
            pixel_cache_bytes=self.pixel_cache_bytes,
        )

    @property
    def store_path(self) -> Path:
        """Rendezvous file of the process group."""
        return Path(self.ranks_dir) / "store"

    def ready_path(self, rank: int) -> Path:
        """File that a rank creates after it has built its training."""
        return Path(self.ranks_dir) / f"ready-{rank}"

    def failure_path(self, rank: int) -> Path:
        """File to which a rank writes the error that ended it."""
        return Path(self.ranks_dir) / f"failure-{rank}.json"

    def log_path(self, rank: int) -> Path:
        """Log file with a rank's stdout and stderr."""
        return Path(self.ranks_dir) / f"rank-{rank}.log"


def write_failure(config: RankConfig, rank: int, error: PotstillError) -> None:
    """Write the error that ended a rank to the file that rank 0 reads."""
    write_atomic(config.failure_path(rank), json.dumps(error_document(error)).encode(), durable=False)


@contextmanager
def launch_ranks(
    config: RankConfig, *, spec: JobSpec, device: torch.device, poll: Callable[[], None]
) -> Iterator[ProcessGroup]:
    """Run the block as rank 0 of as many processes as the spec has devices; end the others on exit.

    ``poll`` is called while they start, and may raise. Inside the block this process uses its share of the job's
    threads.

    Raises:
        ProcessLost: Another rank ended; ``KilledForMemory`` if the kernel's OOM killer ended it.
        RunError: The error that another rank reported.
    """
    world_size = spec.resources.devices
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads_per_rank(spec))
    processes = _RankProcesses(config, world_size)
    try:
        processes.wait_until_ready(poll)
        with (
            processes.watch(),
            init_process_group(config.store_path, rank=0, world_size=world_size, device=device) as ranks,
        ):
            yield ranks
    except RuntimeError as error:  # gloo and NCCL raise it when a connection closes
        failure = processes.find_failure(_FAILURE_TIMEOUT_SECONDS)
        if failure is None:
            raise
        raise failure from error
    finally:
        processes.end()
        torch.set_num_threads(before)


class _RankProcesses:
    """Processes of ranks 1 and above."""

    def __init__(self, config: RankConfig, world_size: int) -> None:
        self._config = config
        self._world_size = world_size
        self._oom_kills = OomKillMonitor()
        self._oom_kills.poll(os.getpid())
        path = config.write()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in range(1, world_size):
                self._processes[rank] = self._start(path, rank)
        except OSError:
            self.end()
            raise

    def _start(self, path: Path, rank: int) -> subprocess.Popen[bytes]:
        # torchrun's variables, for tools that inspect a process's environment.
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self._world_size)}
        command = [
            sys.executable,
            "-P",
            "-m",
            "core.system.parent_death",
            str(os.getpid()),
            MODULE,
            str(path),
            str(rank),
        ]
        with self._config.log_path(rank).open("wb") as output:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [*command, str(self._world_size)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
                start_new_session=True,  # rank 0 handles a Ctrl-C or SIGTERM for the process group
            )

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """Wait until all ranks have built their training. Raises a rank's error, or one from ``poll``."""
        while not all(self._config.ready_path(rank).exists() for rank in self._processes):
            poll()
            self._oom_kills.poll(os.getpid())
            failure = self.find_failure(0.0)
            if failure is not None:
                raise failure
            time.sleep(_POLL_SECONDS)

    def find_failure(self, timeout_seconds: float) -> PotstillError | None:
        """Return the error of a rank that fails within ``timeout_seconds``, or None."""
        deadline = time.monotonic() + timeout_seconds
        while not (failed := self._failed()):
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_SECONDS)
        reports = [path for rank in self._processes if (path := self._config.failure_path(rank)).exists()]
        if reports and min(failed.values()) >= 0:
            # The earliest report is the cause; the other ranks failed because of it.
            first = min(reports, key=lambda path: path.stat().st_mtime_ns)
            return restore_error(json.loads(first.read_text(encoding="utf-8")))
        for rank in failed:
            # A failed allocation during an import or in C++ leaves no report, only a log line.
            if lines := [line for line in self._read_log(rank).splitlines() if mentions_out_of_memory(line)]:
                return OutOfMemory(
                    f"there is not enough memory: {self._describe(rank)} logged {lines[-1][-_LOG_TAIL_CHARS:]!r}. "
                    "Lower training.batch_size or training.image_size, or use a smaller model."
                )
        # A killed rank (negative status) is the cause; the others failed because of it.
        rank, status = min(failed.items(), key=lambda item: item[1])
        if self._is_oom_kill(failed):
            return KilledForMemory(
                f"the kernel killed {self._describe(rank)}, because the machine or its control group ran out of memory"
            )
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        log = self._read_log(rank)
        return ProcessLost(
            f"{self._describe(rank)} {how}"
            + (f"; end of its log: {log[-_LOG_TAIL_CHARS:]}" if log and status >= 0 else "")
        )

    def _describe(self, rank: int) -> str:
        return f"rank {rank} of {self._world_size}"

    def _read_log(self, rank: int) -> str:
        return self._config.log_path(rank).read_text(encoding="utf-8", errors="replace").strip()

    def _is_oom_kill(self, failed: Mapping[int, int]) -> bool:
        return -signal.SIGKILL in failed.values() and self._oom_kills.has_recent_kill()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Exit this process if another rank has failed and this one still waits for it.

        Gloo detects a closed connection. NCCL can wait forever, in a call that only the end of the process interrupts.
        """
        finished = threading.Event()
        threading.Thread(target=self._watch, args=(finished,), name="ranks", daemon=True).start()
        try:
            yield
        finally:
            finished.set()

    def _watch(self, finished: threading.Event) -> None:
        while not finished.wait(_WATCH_SECONDS):
            self._oom_kills.poll(os.getpid())
            if not (failed := self._failed()):
                continue
            # Read before the wait, because the monitor forgets old kills.
            status = EXIT_OUT_OF_MEMORY if self._is_oom_kill(failed) else EXIT_CRASHED
            if not finished.wait(_HANG_TIMEOUT_SECONDS):
                sys.stderr.write(f"still waiting for ranks that have ended (rank: status): {self._failed()}\n")
                os._exit(status)

    def end(self) -> None:
        """Kill the remaining processes and wait for their exit."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _failed(self) -> dict[int, int]:
        """Return the nonzero exit statuses by rank."""
        statuses = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: status for rank, status in statuses.items() if status}
