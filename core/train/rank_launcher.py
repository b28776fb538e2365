"""Start and end the processes of ranks 1 and above of a data-parallel training.

Rank 0 is the job's own process. It alone reports, saves checkpoints and receives control requests. The other ranks are
stateless: they get everything from their :class:`RankConfig`, can be killed at any time, and die with rank 0. They are
new processes, not forks, because rank 0 has threads and possibly a CUDA context. Where torchrun has started the ranks,
:class:`RemoteRanks` has the place of this module's processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from core.errors import KilledForMemory, OutOfMemory, PotstillError, ProcessLost, restore_error
from core.spec import JobSpec
from core.system.oom_kills import OomKillMonitor
from core.system.parent_death import EXIT_CRASHED, EXIT_OUT_OF_MEMORY
from core.train.context import RunContext, threads_per_rank
from core.train.environment import mentions_out_of_memory
from core.train.process_group import (
    SINGLE_PROCESS,
    FileRendezvous,
    ProcessGroup,
    init_process_group,
    is_connection_error,
)
from core.train.rank_config import RankConfig
from core.train.rank_processes import RankProcesses
from core.train.remote_ranks import RemoteRanks

MODULE = "core.rank_main"
_FAILURE_TIMEOUT_SECONDS = 3.0  # after an error in rank 0, to find the rank whose exit caused it
_LOG_TAIL_CHARS = 300


@contextmanager
def launch_ranks(config: RankConfig, context: RunContext, spec: JobSpec) -> Iterator[ProcessGroup]:
    """Run the block as rank 0 of as many processes as the spec has devices; end the others on exit.

    While they start, the reporter's requests are read. Inside the block this process uses its share of the job's
    threads.

    Raises:
        ProcessLost: Another rank ended; ``KilledForMemory`` if the kernel's OOM killer ended it.
        RunError: The error that another rank reported.
        Interrupted: On request, while the other ranks start.
    """
    world_size = spec.resources.devices
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads_per_rank(spec))
    processes: RankProcesses
    processes = LocalRanks(config, world_size) if context.channel is None else RemoteRanks(config, context.channel)
    try:
        processes.wait_until_ready(context.poll)
        with (
            processes.watch(),
            init_process_group(
                processes.rendezvous, rank=0, world_size=world_size, device=context.compute.device
            ) as ranks,
        ):
            yield ranks
    except RuntimeError as error:  # gloo and NCCL raise it when a connection closes
        failure = processes.find_failure(_FAILURE_TIMEOUT_SECONDS)
        if failure is None and is_connection_error(error):
            failure = ProcessLost(f"the connection to another rank is lost: {error}")
        if failure is None:
            raise
        raise failure from error
    finally:
        processes.end()
        torch.set_num_threads(before)


class LocalRanks(RankProcesses):
    """Processes of ranks 1 and above that rank 0 starts on its own machine."""

    def __init__(self, config: RankConfig, world_size: int) -> None:
        self.rendezvous = FileRendezvous(config.store_path)
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

    def poll_memory(self) -> None:
        """Record the OOM kills of this machine."""
        self._oom_kills.poll(os.getpid())

    def are_ready(self) -> bool:
        """Return whether all ranks have built their training."""
        return all(self._config.ready_path(rank).exists() for rank in self._processes)

    def failure(self, failed: Mapping[int, int]) -> PotstillError:
        """Return the error that made ranks fail, from their reports, their logs or their exit statuses."""
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

    def exit_status(self, failed: Mapping[int, int]) -> int:
        """Return the status of an OOM kill or of a crash."""
        return EXIT_OUT_OF_MEMORY if self._is_oom_kill(failed) else EXIT_CRASHED

    def end(self) -> None:
        """Kill the remaining processes and wait for their exit."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def failed(self) -> dict[int, int]:
        """Return the nonzero exit statuses by rank."""
        statuses = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: status for rank, status in statuses.items() if status}
