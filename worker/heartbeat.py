"""The heartbeat of a worker, sent from its main loop."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import structlog
from celery import bootsteps
from sqlalchemy import select

from core.broker import ALIVE_SECONDS, INGEST_QUEUE, INSPECT_QUEUE, JOB_QUEUES
from core.store import workers
from core.store.db import DatabaseUnavailable
from core.store.tables import Job
from core.system.memory import total_memory
from worker.context import Context, current_context
from worker.device import cuda_devices, device_name
from worker.process.shared_flags import DRAIN, READY

PULSE_SECONDS = ALIVE_SECONDS / 4
ROW_SECONDS = 5.0

ROLES: dict[str, workers.Role] = {INGEST_QUEUE: "ingest", INSPECT_QUEUE: "inspector"}

log = structlog.get_logger(__name__)


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Sends heartbeats from the timer of the worker's main thread, so that a hung worker sends none."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **_: Any) -> None:
        super().__init__(worker)
        self._worker = worker
        self._next_row = 0.0
        self._device: str | None = None

    def start(self, worker: Any) -> None:
        """Start the timer."""
        self._device = device_name(current_context().accelerator)
        self._timer = worker.timer.call_repeatedly(PULSE_SECONDS, self._pulse)
        self._pulse()

    def stop(self, _worker: Any) -> None:
        """Stop the timer and remove this worker at once, before its heartbeat expires."""
        self._timer.cancel()
        context = current_context()
        context.broker.mark_stopped(context.queue)
        try:
            with context.database.write() as session:
                workers.remove(session, context.worker_id)
        except DatabaseUnavailable as error:
            log.warning("worker.not_removed", error=str(error))  # the scheduler removes it after a minute
        context.database.dispose()

    def _pulse(self) -> None:
        context = current_context()
        if READY.get():
            context.broker.mark_alive(context.queue)
        if time.monotonic() < self._next_row:
            return
        self._next_row = time.monotonic() + ROW_SECONDS
        try:
            self._record(context)
        except DatabaseUnavailable as error:
            log.warning("worker.heartbeat_failed", error=str(error))
        # The pool can fork at any time, and its processes must not inherit a connection.
        context.database.dispose()

    def _record(self, context: Context) -> None:
        with context.database.write() as session:
            running = select(Job.id).where(Job.worker_id == context.worker_id, Job.status == "running").limit(1)
            job_id = session.scalars(running).one_or_none()
            state = {"ready": bool(READY.get()), "draining": bool(DRAIN.get())}
            if workers.record_heartbeat(session, context.worker_id, job_id=job_id, details=state):
                return
            workers.register(
                session,
                worker_id=context.worker_id,
                role=ROLES.get(context.queue, "worker"),
                host=socket.gethostname(),
                pid=os.getpid(),
                accelerator=context.accelerator,
                device=self._device,
                details={"queue": context.queue, **state, **_capacity(context)},
            )


def _capacity(context: Context) -> dict[str, int | None]:
    """Return the memory that a job may use on this worker, and its devices; nothing for workers without jobs."""
    if context.queue not in JOB_QUEUES.values():
        return {}
    devices = cuda_devices() if context.accelerator == "cuda" else None
    if devices is not None:
        return {"memory_bytes": devices.memory_bytes, "devices": devices.count}
    return {"memory_bytes": context.settings.job_memory_bytes or total_memory(), "devices": None}
