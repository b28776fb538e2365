"""The scheduler: takes back what lost its worker, wakes workers up, and collects what nobody needs.

Everything it does can be done twice, and by two schedulers at once. A step that fails is logged and
done again in the next round.
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
from core.store import audit, datasets, garbage, idempotency, jobs, models, projects, quotas, teachers, workers
from core.store.db import DatabaseUnavailable, open_database, utc_now
from core.store.storage_url import open_store
from core.store.tables import Job
from worker.background import BackgroundTask
from worker.scheduler import housekeeping

ROW_SECONDS = 5.0
RECOUNT_SECONDS = 24 * 3600.0
LEAVE_SECONDS = 3.0
FORGET_SECONDS = 60.0  # a silent process is not listed after 15 seconds, and not remembered after this

log = structlog.get_logger(__name__)


class ClockSkewGuard:
    """Whether workers have had the time to be heard: they beat again within ``grace`` seconds of an outage.

    Nobody hears them while the database is away or stands still, nor while this process does. And nobody has heard
    them on a clock that was set forward, or that went on while the machine slept: by it every lease has run out.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._began = self._heard = -math.inf
        self._moment: datetime | None = None

    def heard(self, moment: datetime) -> bool:
        """Whether a silence is to be believed, now that the database has answered. ``moment``: what leases go by."""
        now = time.monotonic()
        passed = now - self._heard
        leapt = 0.0 if self._moment is None else (moment - self._moment).total_seconds() - passed
        if max(passed, leapt) > self._grace:
            self._began = now
        self._heard, self._moment = now, moment
        return now - self._began >= self._grace


class _NotHeardForLong(Exception):
    """Take nothing back yet."""


class Scheduler:
    """One process's rounds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = open_database(settings)
        self._store = open_store(settings.resolved_storage_url())
        self._hints = Broker(settings.broker_url)
        self._id = new_id("wrk")
        self._listening = ClockSkewGuard(settings.heartbeat_seconds + settings.control_poll_seconds)
        self._next: dict[str, float] = {}
        self._slow = BackgroundTask()

    def round(self) -> None:
        """Everything that is due. What may take long is begun here and done beside: lost workers cannot wait for it."""
        self._step(self.requeue_expired)
        self._step(self.wake_up)
        if self._is_due(self.beat, ROW_SECONDS):
            self._step(self.beat)
        if self._slow.busy:
            return
        slow = {self.collect: self._settings.gc_interval_seconds, self.recount: RECOUNT_SECONDS}
        if due := [step for step, seconds in slow.items() if self._is_due(step, seconds)]:
            self._slow.start(lambda: self._do(due))

    def requeue_expired(self) -> None:
        """Take back the jobs whose worker fell silent."""
        lost: list[Job] = []
        with suppress(_NotHeardForLong), self._database.write() as session:
            expired = jobs.expire_leases(session, self._settings.max_losses)
            if not self._listening.heard(utc_now(session)):  # asked last, as the database may have stood still just now
                raise _NotHeardForLong
            lost = expired
        for job in lost:
            log.warning("job.taken_back", job_id=job.id, attempt=job.attempt, status=job.status, losses=job.losses)
            self._hints.publish_job_change(job.id)

    def wake_up(self) -> None:
        """Say "look" where something waits and no message says so. Without a broker there is nobody to tell."""
        with self._database.read() as session:
            waiting = jobs.waiting(session)
            pending = (datasets.waiting(session), models.waiting(session))
        if not waiting and not any(pending):
            return
        lengths = self._hints.queue_lengths()
        if lengths is None:
            return
        for accelerator, queue in JOB_QUEUES.items():
            if lengths[queue] == 0 and accelerator in waiting:
                self._hints.wake_job_workers(accelerator)
        if "auto" in waiting and all(lengths[queue] == 0 for queue in JOB_QUEUES.values()):
            self._hints.wake_job_workers("auto")
        if lengths[INGEST_QUEUE] == 0:
            if pending[0]:
                self._hints.wake_dataset_workers()
            if pending[1]:
                self._hints.wake_model_workers()

    def beat(self) -> None:
        """Give a sign of life, and forget those that gave none for long."""
        with self._database.write() as session:
            if not workers.record_heartbeat(session, self._id):
                workers.register(
                    session, worker_id=self._id, role="scheduler", host=socket.gethostname(), pid=os.getpid()
                )
            workers.prune(session, FORGET_SECONDS)

    def collect(self) -> None:
        """Delete records, files and folders that nobody needs. Trouble with one of these does not keep the others."""
        self._do([self.forget_records, self.delete_files, self.clean_folders])

    def forget_records(self) -> None:
        """Delete rows that are too old to be of use."""
        settings = self._settings
        with self._database.write() as session:
            forgotten = idempotency.expire(session, settings.idempotency_ttl_hours)
            teachers_ = teachers.prune(session, settings.teacher_retention_days)
            entries = audit.expire(session, settings.audit_retention_days)
        log.info("scheduler.forgot", idempotency_keys=forgotten, audit_entries=entries, teachers=teachers_)

    def delete_files(self) -> None:
        """Delete stored files that no row names."""
        deleted = garbage.collect(self._database, self._store, min_age_seconds=self._settings.gc_min_age_seconds)
        log.info("scheduler.collected", files=len(deleted))

    def clean_folders(self) -> None:
        """Delete what lies on this machine without being of use."""
        settings = self._settings
        folders = housekeeping.clean_scratch(self._database, settings.home)
        won = housekeeping.shrink_cache(settings.home / "cache", settings.cache_bytes)
        log.info("scheduler.cleaned", folders=len(folders), cache_bytes=won)

    def recount(self) -> None:
        """Count anew what each project stores: at the start, as an older version may have run before, and daily."""
        with self._database.read() as session:
            found = projects.list_projects(session)
        for project in found:
            with self._database.write() as session:
                wrong = quotas.recount(session, project.id)
            if wrong:
                log.warning("quota.recounted", project_id=project.id, wrong_by_bytes=wrong)

    def close(self) -> None:
        """Say goodbye. What is done beside can be left in the middle."""
        self._slow.wait(LEAVE_SECONDS)
        self._step(self._leave)
        self._database.dispose()
        self._hints.close()

    # --- inside -----------------------------------------------------------------------------------

    def _leave(self) -> None:
        with self._database.write() as session:
            workers.remove(session, self._id)

    def _is_due(self, step: Callable[[], None], seconds: float) -> bool:
        """Whether a step is to be done again after so many seconds; it counts as done from here on."""
        if time.monotonic() < self._next.get(step.__name__, 0.0):
            return False
        self._next[step.__name__] = time.monotonic() + seconds
        return True

    def _do(self, steps: Iterable[Callable[[], None]]) -> None:
        for step in steps:
            self._step(step)

    def _step(self, step: Callable[[], None]) -> None:
        try:
            step()
        except DatabaseUnavailable as error:
            log.warning("scheduler.database_away", step=step.__name__, error=str(error))
        except Exception:
            log.exception("scheduler.step_failed", step=step.__name__)


def run(settings: Settings) -> None:
    """Make rounds until SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    scheduler = Scheduler(settings)
    log.info("scheduler.started")
    while not ended.is_set():
        scheduler.round()
        ended.wait(settings.scheduler_interval_seconds)
    scheduler.close()
