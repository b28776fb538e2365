"""The parent process of a worker that computes teacher outputs for another worker's job.

A job worker takes this up when no job waits for it, and leaves it as soon as one does. It holds no lease: the locks of
the cache folder make sure that one process computes a view, and the job's own worker computes what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from core.reporting import Control
from core.settings import Settings
from core.store import view_offers, workers
from core.store.db import Session
from core.store.view_offers import ClaimedOffer
from worker.claim_loop import Claimed, LogEvents, Workload
from worker.context import Context
from worker.jobs.parent import JOBS
from worker.process.forked import limit_memory
from worker.process.monitor import ExitReason, ProcessMonitor
from worker.process.watchdog import Watchdog


class CacheFillingWorkload(Workload[ClaimedOffer]):
    """Offers of running jobs to workers with this worker's accelerator and cache folder."""

    events = LogEvents("cache_filling.started", "cache_filling.exited", "cache_filling.exit_not_recorded")

    def claim(self, session: Session, context: Context) -> Claimed[ClaimedOffer] | None:
        """Take the oldest offer."""
        claimed = view_offers.claim(
            session, worker_id=context.worker_id, accelerator=context.accelerator, cache_id=context.cache_id
        )
        if claimed is None:
            return None
        workers.record_heartbeat(session, context.worker_id, job_id=claimed.job.id)
        return Claimed(claimed)

    def log_fields(self, row: ClaimedOffer) -> Mapping[str, object]:
        """Return the job's ID."""
        return {"job_id": row.job.id}

    def make_watchdog(self, context: Context, remaining_seconds: float) -> Watchdog:  # noqa: ARG002
        """Return the stall timeout of jobs: a process that hangs would block the view that it has locked."""
        return Watchdog(stall_seconds=context.settings.stall_timeout_seconds or math.inf)

    def on_claim(self, context: Context, row: ClaimedOffer) -> None:
        """Notify the subscribers of the job; wake another worker if shards are left for it."""
        context.broker.publish_job_change(row.job.id)
        if row.num_shards:
            context.broker.wake_job_workers(context.accelerator)

    def run(self, context: Context, row: ClaimedOffer, control: Callable[[], Control]) -> int:
        """Compute teacher outputs under the memory limit of the settings."""
        if context.settings.job_memory_bytes:
            limit_memory(context.settings.job_memory_bytes)
        # Torch: the pool's process imported it when it started (worker.app.PRELOAD).
        from worker.cache_filling.child import fill

        return fill(context, row, control)

    def renew_lease(self, session: Session, row: ClaimedOffer, lease_seconds: float) -> Control:  # noqa: ARG002
        """Request the end if a queued job needs this worker. Raises ``LeaseLost`` if the job's attempt ended."""
        return Control.GO if view_offers.is_wanted(session, row) else Control.DRAIN

    def read_control(self, context: Context, row: ClaimedOffer) -> Control:
        """Return the same between two renewals."""
        with context.database.read() as session:
            return self.renew_lease(session, row, context.settings.lease_seconds)

    def record_exit(
        self,
        session: Session,
        row: ClaimedOffer,
        exit_reason: ExitReason,
        monitor: ProcessMonitor,  # noqa: ARG002
        settings: Settings,  # noqa: ARG002
    ) -> None:
        """Count a failure of the process, so that an offer that ends every process is not taken for ever."""
        if exit_reason is not ExitReason.FORCED:
            view_offers.record_failure(session, row)

    def wake_next(self, context: Context) -> None:
        """Record that this worker is idle; wake a worker if a job for its accelerator waits."""
        JOBS.wake_next(context)


CACHE_FILLING = CacheFillingWorkload()
