"""The scheduler: requeues jobs whose lease expired, wakes workers, sends webhooks, and collects garbage.

Every step is idempotent and safe with two schedulers at once. A step that fails is logged and repeated in the next
round.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime

import structlog

from core.broker import INGEST_QUEUE, JOB_QUEUES, Broker
from core.ids import new_id
from core.settings import Settings
from core.store import (
    audit,
    checkpoints,
    counters,
    datasets,
    garbage,
    idempotency,
    job_counts,
    jobs,
    models,
    projects,
    quotas,
    teachers,
    tracking,
    uploads,
    view_offers,
    webhooks,
    workers,
)
from core.store.db import DatabaseUnavailable, open_database, utc_now
from core.store.outbound import Kind
from core.store.storage_url import open_store
from core.store.tables import Job
from worker.background import BackgroundTask
from worker.scheduler import housekeeping
from worker.scheduler.hub_push import HubPush
from worker.scheduler.mlflow_sync import MlflowSync
from worker.scheduler.outbound_runner import OutboundRunner, TaskHandler
from worker.scheduler.webhook_sender import WebhookSender

ROW_SECONDS = 5.0
JOB_RECOUNT_SECONDS = 600.0
RECOUNT_SECONDS = 24 * 3600.0
CLOSE_SECONDS = 3.0
WORKER_TTL_SECONDS = 60.0  # a worker without a heartbeat is unlisted after 15 seconds and deleted after this

log = structlog.get_logger(__name__)


class ClockSkewGuard:
    """Reports when expired leases can be trusted: only after ``grace`` seconds without an outage or a clock jump.

    Workers cannot renew leases while the database is unavailable or hangs, and this process cannot see renewals while
    it is stopped itself. A clock that is set forward, or that ran on while the machine slept, expires every lease.
    Within the grace period the workers renew them.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._grace_from = self._checked_at = -math.inf  # monotonic clock
        self._last_now: datetime | None = None

    def is_reliable(self, now: datetime) -> bool:
        """Whether a lease that is expired at ``now`` was really not renewed. ``now``: the clock of the leases."""
        monotonic = time.monotonic()
        elapsed = monotonic - self._checked_at
        jump = 0.0 if self._last_now is None else (now - self._last_now).total_seconds() - elapsed
        if max(elapsed, jump) > self._grace:
            self._grace_from = monotonic
        self._checked_at, self._last_now = monotonic, now
        return monotonic - self._grace_from >= self._grace


class _SkewSuspected(Exception):
    """Roll the expiry of leases back: they are not reliable yet."""


class Scheduler:
    """Runs the scheduler's steps in rounds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = open_database(settings)
        self._store = open_store(settings.resolved_storage_url())
        self._broker = Broker(settings.broker_url)
        self._id = new_id("wrk")
        self._skew_guard = ClockSkewGuard(settings.heartbeat_seconds + settings.control_poll_seconds)
        self._next: dict[str, float] = {}
        self._slow = BackgroundTask()
        self._is_tracking: bool | None = None  # None: not written to the database yet
        self._webhooks = WebhookSender(self._database, settings)
        handlers: dict[Kind, TaskHandler] = {"push": HubPush(self._database, self._store, settings)}
        if settings.mlflow_tracking_uri:
            handlers["tracking"] = MlflowSync(self._database, self._store, settings)
        self._outbound = OutboundRunner(self._database, handlers)

    def run_round(self) -> None:
        """Run the steps that are due; slow ones in the background, so that they do not delay the requeue of jobs."""
        self._run_step(self.requeue_expired)
        self._run_step(self.wake_workers)
        self._run_step(self.send_webhooks)
        self._run_step(self.run_outbound_tasks)
        if self._is_due(self.record_heartbeat, ROW_SECONDS):
            self._run_step(self.record_heartbeat)
        if self._slow.is_running:
            return
        slow = {
            self.collect_garbage: self._settings.gc_interval_seconds,
            self.recount_jobs: JOB_RECOUNT_SECONDS,
            self.recount_storage: RECOUNT_SECONDS,
        }
        if due := [step for step, seconds in slow.items() if self._is_due(step, seconds)]:
            self._slow.start(lambda: self._run_steps(due))

    def requeue_expired(self) -> None:
        """Requeue or fail the jobs whose lease expired."""
        lost: list[Job] = []
        with suppress(_SkewSuspected), self._database.write() as session:
            expired = jobs.expire_leases(session, self._settings.max_losses)
            # Read the clock last: the database may have hung during the statement before.
            if not self._skew_guard.is_reliable(utc_now(session)):
                raise _SkewSuspected
            lost = expired
        for job in lost:
            log.warning(
                "job.lease_expired", job_id=job.id, attempt=job.attempt, status=job.status, losses=job.worker_losses
            )
            self._broker.publish_job_change(job.id)

    def wake_workers(self) -> None:
        """Wake the workers of each queue that has waiting rows but no message, if the broker is available."""
        with self._database.read() as session:
            waiting = jobs.queued_accelerators(session)
            uploads = (datasets.count_claimable(session), models.count_claimable(session))
        if not waiting and not any(uploads):
            return
        lengths = self._broker.queue_lengths()
        if lengths is None:
            return
        for accelerator, queue in JOB_QUEUES.items():
            if lengths[queue] == 0 and accelerator in waiting:
                self._broker.wake_job_workers(accelerator)
        if "auto" in waiting and all(lengths[queue] == 0 for queue in JOB_QUEUES.values()):
            self._broker.wake_job_workers("auto")
        if lengths[INGEST_QUEUE] == 0:
            if uploads[0]:
                self._broker.wake_dataset_workers()
            if uploads[1]:
                self._broker.wake_model_workers()

    def send_webhooks(self) -> None:
        """Send the due deliveries of webhooks, in threads of their own."""
        self._webhooks.start_due()

    def run_outbound_tasks(self) -> None:
        """Run the due pushes to hubs and reports to the tracking server, in threads of their own."""
        if self._is_tracking is None:
            enabled = bool(self._settings.mlflow_tracking_uri)
            with self._database.write() as session:
                tracking.enable(session, enabled=enabled)
            self._is_tracking = enabled
        self._outbound.start_due()

    def record_heartbeat(self) -> None:
        """Record the heartbeat of this process; delete workers without one, and merge the counts."""
        with self._database.write() as session:
            if not workers.record_heartbeat(session, self._id):
                workers.register(
                    session, worker_id=self._id, role="scheduler", host=socket.gethostname(), pid=os.getpid()
                )
            workers.prune(session, WORKER_TTL_SECONDS)
            job_counts.merge(session)
            counters.merge(session)

    def collect_garbage(self) -> None:
        """Delete old records, unreferenced files and local folders. An error in one step does not stop the others."""
        self._run_steps(
            [
                self.delete_old_records,
                self.delete_expired_checkpoints,
                self.delete_expired_uploads,
                self.delete_files,
                self.prune_local_files,
            ]
        )

    def delete_old_records(self) -> None:
        """Delete rows that are older than their retention time."""
        settings = self._settings
        with self._database.write() as session:
            num_keys = idempotency.expire(session, settings.idempotency_ttl_hours)
            num_teachers = teachers.prune(session, settings.teacher_retention_days)
            num_entries = audit.expire(session, settings.audit_retention_days)
            num_deliveries = webhooks.expire(session, settings.webhook_retention_days)
            view_offers.prune(session)
        log.info(
            "scheduler.records_deleted",
            idempotency_keys=num_keys,
            audit_entries=num_entries,
            teachers=num_teachers,
            webhook_deliveries=num_deliveries,
        )

    def delete_expired_checkpoints(self) -> None:
        """Delete the training state of jobs that ended without success longer ago than its retention time."""
        num_jobs = 0
        while True:
            with self._database.write() as session:
                keys = checkpoints.prune_expired(session, self._settings.resume_retention_days)
            if keys is None:
                break
            num_jobs += 1
        if num_jobs:
            log.info("scheduler.checkpoints_expired", jobs=num_jobs)

    def delete_expired_uploads(self) -> None:
        """Delete resumable uploads that were not used in time; garbage collection deletes the files."""
        num_uploads = 0
        while True:
            with self._database.write() as session:
                if uploads.prune_expired(session) is None:
                    break
            num_uploads += 1
        if num_uploads:
            log.info("scheduler.uploads_expired", uploads=num_uploads)

    def delete_files(self) -> None:
        """Delete stored files that no row references."""
        deleted = garbage.collect(self._database, self._store, min_age_seconds=self._settings.gc_min_age_seconds)
        log.info("scheduler.files_deleted", files=len(deleted))

    def prune_local_files(self) -> None:
        """Delete unused scratch folders and the least recently used cache entries on this machine."""
        settings = self._settings
        folders = housekeeping.prune_scratch(self._database, settings.home)
        deleted_bytes = housekeeping.prune_cache(settings.home / "cache", settings.cache_bytes)
        log.info("scheduler.folders_deleted", folders=len(folders), cache_bytes=deleted_bytes)

    def recount_jobs(self) -> None:
        """Correct the counts of jobs: an older version, which runs during an upgrade, does not update them."""
        with self._database.write() as session:
            corrections = job_counts.recount(session)
        if corrections:
            log.warning("jobs.recounted", corrections={"/".join(group): n for group, n in corrections.items()})

    def recount_storage(self) -> None:
        """Recount the stored bytes of each project: at the start, because an older version may have run, and daily."""
        with self._database.read() as session:
            all_projects = projects.list_projects(session)
        for project in all_projects:
            with self._database.write() as session:
                difference = quotas.recount(session, project.id)
            if difference:
                log.warning("quota.recounted", project_id=project.id, difference_bytes=difference)

    def close(self) -> None:
        """Remove this process from the workers. A slow step can be interrupted at any point."""
        self._slow.wait(CLOSE_SECONDS)
        self._webhooks.close(CLOSE_SECONDS)
        self._outbound.close(CLOSE_SECONDS)
        self._run_step(self._remove)
        self._database.dispose()
        self._broker.close()

    def _remove(self) -> None:
        with self._database.write() as session:
            workers.remove(session, self._id)

    def _is_due(self, step: Callable[[], None], seconds: float) -> bool:
        """Whether a step is due; if so, it is due again after ``seconds``."""
        if time.monotonic() < self._next.get(step.__name__, 0.0):
            return False
        self._next[step.__name__] = time.monotonic() + seconds
        return True

    def _run_steps(self, steps: Iterable[Callable[[], None]]) -> None:
        for step in steps:
            self._run_step(step)

    def _run_step(self, step: Callable[[], None]) -> None:
        try:
            step()
        except DatabaseUnavailable as error:
            log.warning("scheduler.database_unavailable", step=step.__name__, error=str(error))
        except Exception:
            log.exception("scheduler.step_failed", step=step.__name__)


def run(settings: Settings) -> None:
    """Run rounds until SIGTERM or SIGINT."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    scheduler = Scheduler(settings)
    log.info("scheduler.started")
    while not stopped.is_set():
        scheduler.run_round()
        stopped.wait(settings.scheduler_interval_seconds)
    scheduler.close()
