"""The scheduler: takes back what lost its worker, wakes workers up, and collects what nobody needs.

Everything it does can be done twice, and by two schedulers at once. A step that fails is logged and
done again in the next round.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import structlog

from core.ids import new_id
from core.queue import INGEST_QUEUE, JOB_QUEUES, Hints
from core.settings import Settings
from core.store import audit, collector, datasets, idempotency, jobs, models, projects, quotas, teachers, workers
from core.store.artifacts import open_store
from core.store.db import DatabaseUnavailable, open_database
from worker import housekeeping

ROW_SECONDS = 5.0
RECOUNT_SECONDS = 24 * 3600.0
FORGET_SECONDS = 60.0  # a silent process is not listed after 15 seconds, and not remembered after this

log = structlog.get_logger(__name__)


class Scheduler:
    """One process's rounds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = open_database(settings)
        self._store = open_store(settings.resolved_storage_url())
        self._hints = Hints(settings.broker_url)
        self._id = new_id("wrk")
        self._next: dict[str, float] = {}

    def round(self) -> None:
        """Everything that is due."""
        self._step(self.take_back)
        self._step(self.wake_up)
        self._every(ROW_SECONDS, self.beat)
        self._every(self._settings.collect_seconds, self.collect)
        self._every(RECOUNT_SECONDS, self.recount)

    def take_back(self) -> None:
        """Take back the jobs whose worker fell silent."""
        with self._database.write() as session:
            lost = jobs.expire_leases(session, self._settings.max_losses)
        for job in lost:
            log.warning("job.taken_back", job_id=job.id, attempt=job.attempt, status=job.status, losses=job.losses)
            self._hints.changed(job.id)

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
                self._hints.look_for_jobs(accelerator)
        if "auto" in waiting and all(lengths[queue] == 0 for queue in JOB_QUEUES.values()):
            self._hints.look_for_jobs("auto")
        if lengths[INGEST_QUEUE] == 0:
            if pending[0]:
                self._hints.look_for_datasets()
            if pending[1]:
                self._hints.look_for_models()

    def beat(self) -> None:
        """Give a sign of life, and forget those that gave none for long."""
        with self._database.write() as session:
            if not workers.beat(session, self._id):
                workers.register(
                    session, worker_id=self._id, role="scheduler", host=socket.gethostname(), pid=os.getpid()
                )
            workers.prune(session, FORGET_SECONDS)

    def collect(self) -> None:
        """Delete records, files and folders that nobody needs."""
        settings = self._settings
        with self._database.write() as session:
            forgotten = idempotency.expire(session, settings.idempotency_hours)
            teachers_ = teachers.prune(session, settings.teacher_days)
            entries = audit.expire(session, settings.audit_days)
        garbage = collector.collect(self._database, self._store, min_age_seconds=settings.orphan_seconds)
        folders = housekeeping.clean_scratch(self._database, settings.home)
        won = housekeeping.shrink_cache(settings.home / "cache", settings.cache_bytes)
        log.info(
            "scheduler.collected",
            idempotency_keys=forgotten,
            audit_entries=entries,
            teachers=teachers_,
            files=len(garbage),
            folders=len(folders),
            cache_bytes=won,
        )

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
        """Say goodbye."""
        self._step(self._leave)
        self._database.dispose()
        self._hints.close()

    # --- inside -----------------------------------------------------------------------------------

    def _leave(self) -> None:
        with self._database.write() as session:
            workers.remove(session, self._id)

    def _every(self, seconds: float, step: Callable[[], None]) -> None:
        if time.monotonic() >= self._next.get(step.__name__, 0.0):
            self._next[step.__name__] = time.monotonic() + seconds
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
        ended.wait(settings.scheduler_seconds)
    scheduler.close()
