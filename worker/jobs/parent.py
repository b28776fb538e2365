"""The parent process of a job: claim it, monitor the process that runs it, record how that process ended."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from opentelemetry.trace import Span

from core import tracing
from core.reporting import Control
from core.settings import Settings
from core.store import job_logs, jobs, workers
from core.store.db import Session
from core.store.job_leases import Flags, LeaseToken
from core.store.job_metrics import method_name
from core.store.tables import Job
from core.system.fault_injection import fault_point
from worker.claim_loop import Claimed, LogEvents, Workload
from worker.context import Context
from worker.jobs import failure
from worker.process.forked import limit_memory
from worker.process.log_tail import collect_secrets
from worker.process.monitor import ExitReason, ProcessMonitor
from worker.process.watchdog import Watchdog


class JobWorkload(Workload[Job]):
    """Queued jobs of this worker's accelerator."""

    events = LogEvents("job.claimed", "job.exited", "job.exit_not_recorded")

    def claim(self, session: Session, context: Context) -> Claimed[Job] | None:
        """Claim the job that is next in the queue."""
        job = jobs.claim(
            session,
            worker_id=context.worker_id,
            accelerator=context.accelerator,
            lease_seconds=context.settings.lease_seconds,
        )
        if job is None:
            return None
        workers.record_heartbeat(session, context.worker_id, job_id=job.id)
        limit = failure.max_seconds(job, context.settings)
        return Claimed(job, math.inf if limit is None else limit - jobs.running_seconds(session, job.id))

    def log_fields(self, row: Job) -> Mapping[str, object]:
        """Return the ids of the job and of the request that created it."""
        return {"job_id": row.id, **({"request_id": row.request_id} if row.request_id else {})}

    def open_span(self, context: Context, row: Job) -> AbstractContextManager[Span]:
        """Open the span of the attempt, in the trace of the request that created the job."""
        attributes: tracing.Attributes = {
            "potstill.job.id": row.id,
            "potstill.job.attempt": row.attempt,
            "potstill.job.method": method_name(row.spec),
            "potstill.job.accelerator": row.accelerator,
            "potstill.worker.id": context.worker_id,
        }
        if row.attempt == 1:
            waited = tracing.start_span("job.queued", attributes, parent=row.traceparent, started_at=row.created_at)
            waited.end(tracing.nanoseconds(row.started_at or row.created_at))
        return tracing.span("job.attempt", attributes, parent=row.traceparent, kind=tracing.SpanKind.CONSUMER)

    def make_watchdog(self, context: Context, remaining_seconds: float) -> Watchdog:
        """Return the stall timeout, the time limit and the secrets that the job's log must not show."""
        settings = context.settings
        return Watchdog(
            stall_seconds=settings.stall_timeout_seconds or math.inf,
            remaining_seconds=remaining_seconds,
            secrets=collect_secrets(settings, os.environ),
        )

    def on_claim(self, context: Context, row: Job) -> None:
        """Notify the subscribers of the job."""
        fault_point("claim.committed")
        context.broker.publish_job_change(row.id)

    def on_exit(self, context: Context, row: Job) -> None:
        """Notify the subscribers of the job."""
        context.broker.publish_job_change(row.id)

    def run(self, context: Context, row: Job, control: Callable[[], Control]) -> int:
        """Run the job under the memory limit of the settings."""
        context.settings = settings_of_job(context.settings, row)
        if context.settings.job_memory_bytes:
            limit_memory(context.settings.job_memory_bytes)
        # Torch: the pool's process imported it when it started (worker.app.PRELOAD).
        from worker.jobs.child import run_job

        return run_job(context, row, control)

    def renew_lease(self, session: Session, row: Job, lease_seconds: float) -> Control:
        """Renew the lease and return the requested action."""
        return _requested_control(jobs.renew_lease(session, LeaseToken.from_job(row), lease_seconds))

    def save_log(self, context: Context, row: Job, lines: Sequence[str]) -> None:
        """Save the lines for the API."""
        with context.database.write() as session:
            job_logs.save(session, LeaseToken.from_job(row), lines)

    def read_control(self, context: Context, row: Job) -> Control:
        """Return the requested action."""
        with context.database.read() as session:
            return _requested_control(jobs.read_flags(session, LeaseToken.from_job(row)))

    def record_exit(
        self, session: Session, row: Job, exit_reason: ExitReason, monitor: ProcessMonitor, settings: Settings
    ) -> None:
        """Cancel, fail or requeue the job."""
        lease, settings = LeaseToken.from_job(row), settings_of_job(settings, row)
        if exit_reason is ExitReason.FORCED and monitor.requested is Control.CANCEL:
            jobs.release_cancelled(session, lease)
        elif exit_reason is ExitReason.FORCED and monitor.watchdog.is_time_over():
            job, usage = jobs.get_leased(session, lease), monitor.watchdog.usage
            cause = failure.from_time_limit(session, job, settings, log=monitor.log_lines, usage=usage)
            jobs.fail(session, lease, failure.job_error(session, job, cause))
        elif exit_reason is ExitReason.FORCED:
            jobs.release(session, lease)
        else:
            from_monitor = failure.from_stall if exit_reason is ExitReason.STALLED else failure.from_exit
            jobs.record_loss(session, lease, from_monitor(monitor, settings), settings.max_losses)

    def wake_next(self, context: Context) -> None:
        """Record that this worker is idle; wake a worker if a job for its accelerator waits."""
        with context.database.write() as session:
            workers.record_heartbeat(session, context.worker_id)
            waiting = jobs.queued_accelerators(session)
        if waiting & {"auto", context.accelerator}:
            context.broker.wake_job_workers(context.accelerator)


def settings_of_job(settings: Settings, job: Job) -> Settings:
    """Return the settings with the memory limit of each process of the job."""
    devices = int(job.spec.get("resources", {}).get("devices", 1))
    return settings.model_copy(update={"job_memory_bytes": settings.job_memory_bytes // devices})


def _requested_control(flags: Flags) -> Control:
    if flags.cancel:
        return Control.CANCEL
    if flags.pause:
        return Control.PAUSE
    return Control.STOP if flags.stop else Control.GO


JOBS = JobWorkload()
