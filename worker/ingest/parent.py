"""The ingest worker's part: claim what was sent, watch over the process that takes it in, answer for its end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import structlog

from core.broker import Broker
from core.reporting import Control
from core.store import datasets, models
from core.store.db import DatabaseUnavailable, Session
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseLost
from core.store.tables import Dataset, Model
from worker.context import Context, current
from worker.process.monitor import ExitReason, MonitorIntervals, ProcessMonitor
from worker.process.shared_flags import DRAIN

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """Datasets or models: where their state is kept, what is done with one, how to say that more wait."""

    store: ModuleType  # core.store.datasets or core.store.models: claim, beat, hand_back, waiting
    work: str  # a function of worker.ingest.child
    look: Callable[[Broker], None]


DATASETS = Kind(datasets, "ingest_dataset", Broker.wake_dataset_workers)
MODELS = Kind(models, "check_model", Broker.wake_model_workers)


def take_next(kind: Kind) -> None:
    """Claim the oldest one that waits and stay with it to its end; nothing where none waits."""
    context = current()
    row = _claim(context, kind)
    if row is None:
        return
    holding = IngestLeaseToken.of(row)
    scratch = context.scratch(row.id, row.attempt)
    with structlog.contextvars.bound_contextvars(object_id=row.id, attempt=row.attempt):
        log.info("intake.claimed")
        guardian = ProcessMonitor(_Beat(context, kind, holding), _rhythm(context))
        context.database.dispose()  # its connections must not cross the fork
        ending = guardian.run(lambda control: _work(context.in_this_process(), kind, row, scratch, control))
        if ending in {ExitReason.CRASHED, ExitReason.FORCED}:
            _write(context, lambda session: _leave(session, kind, holding, ending))
        shutil.rmtree(scratch, ignore_errors=True)
        log.info("intake.left", ending=ending)
    _look_for_more(context, kind)


def _work(context: Context, kind: Kind, row: Dataset | Model, scratch: Path, control: Callable[[], Control]) -> int:

    from worker.ingest import child  # decoders: imported by the pool's process when it started (worker.app.PRELOAD)

    status: int = getattr(child, kind.work)(context, row, scratch, control)
    return status


class _Beat:
    """Renews the lease. A dataset or model knows no cancel: a deleted one has lost its lease."""

    def __init__(self, context: Context, kind: Kind, holding: IngestLeaseToken) -> None:
        self._context = context
        self._kind = kind
        self._holding = holding
        self._renewed_at = time.monotonic()

    def __call__(self) -> Control:
        settings = self._context.settings
        if time.monotonic() - self._renewed_at >= settings.heartbeat_seconds:
            with self._context.database.write() as session:
                self._kind.store.beat(session, self._holding, settings.lease_seconds)
            self._renewed_at = time.monotonic()
        return Control.GO


def _rhythm(context: Context) -> MonitorIntervals:
    settings = context.settings
    return MonitorIntervals(
        beat=settings.control_poll_seconds, outage=settings.outage_seconds, force_cancel=settings.cancel_grace_seconds
    )


def _claim(context: Context, kind: Kind) -> Dataset | Model | None:
    if DRAIN.get():
        return None
    try:
        with context.database.write() as session:
            row: Dataset | Model | None = kind.store.claim(
                session, worker_id=context.worker_id, lease_seconds=context.settings.lease_seconds
            )
    except DatabaseUnavailable as error:
        log.warning("claim.failed", error=str(error))  # the scheduler says "look" again
        return None
    return row


def _leave(session: Session, kind: Kind, holding: IngestLeaseToken, ending: ExitReason) -> None:
    if ending is ExitReason.FORCED:
        kind.store.hand_back(session, holding)
    else:
        kind.store.beat(session, holding, -1.0)  # the process is dead: its lease runs out now, and counts as a loss


def _write(context: Context, work: Callable[[Session], object]) -> None:
    try:
        with context.database.write() as session:
            work(session)
    except (LeaseLost, DatabaseUnavailable) as error:
        log.warning("intake.not_left", error=str(error))  # the lease runs out by itself


def _look_for_more(context: Context, kind: Kind) -> None:
    try:
        with context.database.read() as session:
            waiting = kind.store.waiting(session)
    except DatabaseUnavailable:
        return  # the scheduler says it when the database is back
    if waiting:
        kind.look(context.hints)
