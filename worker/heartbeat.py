"""The sign of life that each worker gives while its main loop turns."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import structlog
from celery import bootsteps
from sqlalchemy import select

from core.broker import ALIVE_SECONDS, INGEST_QUEUE, INSPECT_QUEUE
from core.store import workers
from core.store.db import DatabaseUnavailable
from core.store.tables import Job
from worker.context import Context, current
from worker.device import device_name
from worker.process.shared_flags import READY

PULSE_SECONDS = ALIVE_SECONDS / 4
ROW_SECONDS = 5.0

ROLES: dict[str, workers.Role] = {INGEST_QUEUE: "ingest", INSPECT_QUEUE: "inspector"}

log = structlog.get_logger(__name__)


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Beats from the worker's own timer, in its one thread: a worker that hangs falls silent."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **_: Any) -> None:
        super().__init__(worker)
        self._worker = worker
        self._next_row = 0.0
        self._device: str | None = None

    def start(self, worker: Any) -> None:
        """Begin to beat."""
        self._device = device_name(current().accelerator)
        self._timer = worker.timer.call_repeatedly(PULSE_SECONDS, self._pulse)
        self._pulse()

    def stop(self, _worker: Any) -> None:
        """Fall silent, and say so: nobody need wait until the signs of life have expired."""
        self._timer.cancel()
        context = current()
        context.hints.not_alive(context.queue)
        try:
            with context.database.write() as session:
                workers.remove(session, context.worker_id)
        except DatabaseUnavailable as error:
            log.warning("worker.not_removed", error=str(error))  # the scheduler forgets it in a minute
        context.database.dispose()

    def _pulse(self) -> None:
        context = current()
        if READY.get():
            context.hints.alive(context.queue)
        if time.monotonic() < self._next_row:
            return
        self._next_row = time.monotonic() + ROW_SECONDS
        try:
            self._beat(context)
        except DatabaseUnavailable as error:
            log.warning("worker.silent", error=str(error))
        # The pool may fork at any time, and its processes must not inherit a connection.
        context.database.dispose()

    def _beat(self, context: Context) -> None:
        with context.database.write() as session:
            running = select(Job.id).where(Job.worker_id == context.worker_id, Job.status == "running").limit(1)
            if workers.record_heartbeat(session, context.worker_id, job_id=session.scalars(running).one_or_none()):
                return
            workers.register(
                session,
                worker_id=context.worker_id,
                role=ROLES.get(context.queue, "worker"),
                host=socket.gethostname(),
                pid=os.getpid(),
                accelerator=context.accelerator,
                device=self._device,
                details={"queue": context.queue, "ready": bool(READY.get())},
            )
