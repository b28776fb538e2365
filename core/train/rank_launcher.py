"""The other processes of a training on several devices: started, watched and ended by the first one.

The first rank is the job's own process. It alone has a reporter, saves, and is asked to leave; the others own
nothing and are told all they need by their :class:`Orders`, so they can be ended at any moment. None of them
outlives it. They are fresh processes, not forks: by now this one has threads, and maybe a device.
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
from core.system.oom_kills import OomKillMonitor
from core.system.parent_death import CRASHED, NO_MEMORY
from core.train.context import threads_each
from core.train.environment import tells_of_no_memory
from core.train.process_group import SINGLE_PROCESS, ProcessGroup, init_process_group

MODULE = "core.rank_main"
_LOOK_SECONDS = 0.05
_TOLD_SECONDS = 3.0  # after an error here, for another process to be seen dead
_STUCK_SECONDS = 30.0  # after the end of another process, for this one to have noticed
_LAST_WORDS = 300  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """What another rank needs to build the same training: ``folder`` is where the ranks meet.

    ``teachers`` are the folders of those that the job trained, by recipe; ``checkpoint`` is where all go on from.
    """

    folder: str
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
    def of(cls, spec: JobSpec, workspace: Workspace, *, teachers: Mapping[str, Path], checkpoint: Path | None) -> Self:
        """Orders for a training of this job. Paths are made absolute."""

        def paths(folders: Mapping[str, Path]) -> dict[str, str]:
            return {name: str(folder.resolve()) for name, folder in folders.items()}

        root = workspace.root.resolve()
        return cls(
            folder=str(root / "ranks"),
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
        """The orders in a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self) -> Path:
        """Put them where the others read them, in an empty meeting place."""
        path = Path(self.folder) / "orders.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.iterdir():  # an earlier attempt's
            old.unlink()
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    def job(self) -> JobSpec:
        """The job's spec."""
        return parse_job_spec(json.loads(self.spec))

    def workspace(self, rank: int) -> Workspace:
        """Where a rank reads; it writes nothing but into the shared cache."""
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
    def meeting(self) -> Path:
        """The file by which the process group finds together."""
        return Path(self.folder) / "meeting"

    def ready(self, rank: int) -> Path:
        """The file that is there once a rank has built its training."""
        return Path(self.folder) / f"ready-{rank}"

    def failure(self, rank: int) -> Path:
        """The file in which a rank says why it cannot go on."""
        return Path(self.folder) / f"failure-{rank}.json"

    def output(self, rank: int) -> Path:
        """What a rank prints."""
        return Path(self.folder) / f"output-{rank}.txt"


def tell_failure(orders: RankConfig, rank: int, error: PotstillError) -> None:
    """Leave word of what ended this rank."""
    path = orders.failure(rank)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(error_document(error)), encoding="utf-8")
    beside.replace(path)  # whole, whenever it is seen


@contextmanager
def launch_ranks(
    orders: RankConfig, *, spec: JobSpec, device: torch.device, poll: Callable[[], None]
) -> Iterator[ProcessGroup]:
    """Train with as many processes as the spec asks for devices, this one being the first.

    The others are gone when this is left, however it is left. ``poll`` is called while they start, and may raise.
    Meanwhile this one has its part of the job's threads.

    Raises:
        ProcessLost: One of the others ended; ``KilledForMemory`` where the kernel ended it for want of memory.
        RunError: What one of the others could not go on for, as it said itself.
    """
    size = spec.resources.devices
    if size == 1:
        yield SINGLE_PROCESS
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads_each(spec))
    followers = _Followers(orders, size)
    try:
        followers.wait_until_ready(poll)
        with followers.watched(), init_process_group(orders.meeting, rank=0, size=size, device=device) as ranks:
            yield ranks
    except RuntimeError as error:  # what gloo and NCCL raise where a connection closes
        lost = followers.lost(_TOLD_SECONDS)
        if lost is None:
            raise
        raise lost from error
    finally:
        followers.end()
        torch.set_num_threads(before)


class _Followers:
    """The processes of all ranks but the first."""

    def __init__(self, orders: RankConfig, size: int) -> None:
        self._orders = orders
        self._size = size
        self._kills = OomKillMonitor()
        self._kills.look(os.getpid())
        path = orders.write()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in range(1, size):
                self._processes[rank] = self._start(path, rank)
        except OSError:
            self.end()
            raise

    def _start(self, path: Path, rank: int) -> subprocess.Popen[bytes]:
        # A session of its own: a Ctrl-C or a SIGTERM for the group is the first rank's business.
        # The words of torchrun, for whoever looks at the environment of a process.
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self._size)}
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
        with self._orders.output(rank).open("wb") as output:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and words
                [*command, str(self._size)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **place},
                start_new_session=True,
            )

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """Wait until all have built their training. Raises what ended one of them, or whatever ``poll`` raises."""
        while not all(self._orders.ready(rank).exists() for rank in self._processes):
            poll()
            self._kills.look(os.getpid())
            lost = self.lost(0.0)
            if lost is not None:
                raise lost
            time.sleep(_LOOK_SECONDS)

    def lost(self, seconds: float) -> PotstillError | None:
        """What ended one of them, if one is seen to have failed within so many seconds."""
        ends = time.monotonic() + seconds
        while not (failed := self._failed()):
            if time.monotonic() >= ends:
                return None
            time.sleep(_LOOK_SECONDS)
        told = [path for rank in self._processes if (path := self._orders.failure(rank)).exists()]
        if told and min(failed.values()) >= 0:
            # The first one is the cause: the others could not go on without it.
            first = min(told, key=lambda path: path.stat().st_mtime_ns)
            return restore_error(json.loads(first.read_text(encoding="utf-8")))
        for rank in failed:
            # Nobody is left to say so where an import or a library in C++ found no memory.
            if last := [line for line in self._words(rank).splitlines() if tells_of_no_memory(line)]:
                return OutOfMemory(
                    f"there is not enough memory: {self._named(rank)} said {last[-1][-_LAST_WORDS:]!r}. Lower "
                    "training.batch_size or training.image_size, or take a smaller model."
                )
        # Who was killed comes before who could not go on without it, whatever that one says.
        rank, status = min(failed.items(), key=lambda one: one[1])
        if self._was_for_memory(failed):
            return KilledForMemory(
                f"the kernel ended {self._named(rank)}, as the machine or its control group had no memory left"
            )
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        words = self._words(rank)
        return ProcessLost(
            f"{self._named(rank)} {how}"
            + (f"; its last words: {words[-_LAST_WORDS:]}" if words and status >= 0 else "")
        )

    def _named(self, rank: int) -> str:
        return f"process {rank} of the {self._size} that train together"

    def _words(self, rank: int) -> str:
        return self._orders.output(rank).read_text(encoding="utf-8", errors="replace").strip()

    def _was_for_memory(self, failed: Mapping[int, int]) -> bool:
        return -signal.SIGKILL in failed.values() and self._kills.lately()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process by force where another one has failed and this one still waits for it.

        Gloo notices a closed connection by itself; NCCL can wait for ever, inside a call that nothing else ends.
        """
        left = threading.Event()
        threading.Thread(target=self._watch, args=(left,), name="ranks", daemon=True).start()
        try:
            yield
        finally:
            left.set()

    def _watch(self, left: threading.Event) -> None:
        while not left.wait(_LOOK_SECONDS * 10):
            self._kills.look(os.getpid())
            if not (failed := self._failed()):
                continue
            status = NO_MEMORY if self._was_for_memory(failed) else CRASHED  # asked now, not when it is long ago
            if not left.wait(_STUCK_SECONDS):
                sys.stderr.write(f"waiting for processes that have ended (rank: status): {self._failed()}\n")
                os._exit(status)

    def end(self) -> None:
        """Kill those that are left and wait for their end."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _failed(self) -> dict[int, int]:
        """The exit statuses of those that did not end well, by rank."""
        statuses = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: status for rank, status in statuses.items() if status}
