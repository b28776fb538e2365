"""Process of rank 1 or above under torchrun: it runs the trainings that rank 0 orders, and ends with the session.

Each training is a process of its own (:mod:`core.rank_main`), forked from this one, so that it can be killed at any
time, also in a collective that waits for a rank that has left. This process computes nothing, starts no threads and
never uses CUDA.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core.errors import KilledForMemory, PotstillError, ProcessLost, restore_error
from core.rank_main import run_rank
from core.reporting import Control, Interrupted
from core.system.oom_kills import OomKillMonitor
from core.system.parent_death import die_with_parent
from core.train.process_group import Rendezvous
from core.train.rank_channel import Identity, Outcome, RankChannel, RankStore, join_session
from core.train.rank_config import RankConfig
from core.train.torchrun import RankPlace, TorchrunEnvironment

_POLL_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve_rank(store: RankStore, environment: TorchrunEnvironment, identity: Identity) -> Outcome:
    """Join rank 0 and run the trainings that it orders; return how rank 0 has left the session.

    After SIGTERM, rank 0 is asked to save a checkpoint and to leave.

    Raises:
        Interrupted: SIGTERM before this process has joined.
        InvalidRequest: This process differs from rank 0 in its versions, its spec or its options.
        ProcessLost: Rank 0 or the store cannot be reached.
    """
    with _received_signal() as is_leaving:

        def poll() -> None:
            if is_leaving.is_set():
                raise Interrupted(Control.PAUSE)

        channel = join_session(store, environment, identity, poll=poll)
        number = 0
        while (outcome := channel.outcome()) is None:
            if is_leaving.is_set():
                channel.request_pause()
            if (order := channel.order(number)) is not None:
                _run_training(channel, number, order, is_leaving)
                number += 1
            time.sleep(_POLL_SECONDS)
        channel.leave()
        return outcome


@contextmanager
def _received_signal() -> Iterator[threading.Event]:
    """Return an event that is set by the first SIGINT or SIGTERM. Later ones have no effect."""
    received = threading.Event()
    previous = {number: signal.signal(number, lambda *_: received.set()) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_training(channel: RankChannel, number: int, order: Mapping[str, Any], is_leaving: threading.Event) -> None:
    """Run a training until rank 0 has left it; report when it is built, and its failure."""
    with TemporaryDirectory(prefix="potstill-rank-") as folder:
        config = RankConfig(**order["config"]).with_ranks_dir(Path(folder))
        process = multiprocessing.get_context("fork").Process(
            target=_train,
            args=(config, order["files"], channel.environment.place, channel.rendezvous(number), os.getpid()),
        )
        process.start()
        is_ready = is_failed = False
        oom_kills = OomKillMonitor()
        try:
            while not channel.is_ended(number):
                if is_leaving.is_set():
                    channel.request_pause()
                oom_kills.poll(os.getpid())
                if not is_ready and config.ready_path(channel.environment.place.rank).exists():
                    is_ready = True
                    channel.report_ready(number)
                if not is_failed and process.exitcode:
                    is_failed = True
                    error = _failure(config, channel, process, oom_kills)
                    channel.report_failure(number, process.exitcode, error)
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
            process.join()


def _train(config: RankConfig, files: Mapping[str, str], place: RankPlace, rendezvous: Rendezvous, parent: int) -> None:
    """Train in a forked process, which only its parent ends."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # torchrun sends them to the whole process group
    die_with_parent(parent)
    sys.exit(run_rank(config, place, rendezvous, files=files))


def _failure(
    config: RankConfig, channel: RankChannel, process: BaseProcess, oom_kills: OomKillMonitor
) -> PotstillError:
    """Return the error that ended the process of a training."""
    place, status = channel.environment.place, process.exitcode or 0
    name = f"rank {place.rank} of {place.world_size} on {channel.machine}"
    path = config.failure_path(place.rank)
    if path.exists():
        error = restore_error(json.loads(path.read_text(encoding="utf-8")))
        return type(error)(f"{name}: {error.detail}", errors=error.errors, extra=error.extra)
    if status == -signal.SIGKILL and oom_kills.has_recent_kill():
        return KilledForMemory(f"the kernel killed {name}, because the machine or its control group ran out of memory")
    return ProcessLost(f"{name} " + (f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"))
