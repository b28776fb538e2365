"""The moves of a job that a caller may ask for, by HTTP or with a button: done, noted in the audit log, announced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from fastapi import BackgroundTasks

from api.deps import AppState
from api.jobs.schemas import JobAction
from core.broker import Accelerator
from core.store import jobs, quotas
from core.store.db import Session
from core.store.keys import Caller
from core.store.tables import Job

_MOVES: Mapping[JobAction, Callable[[Session, str, str], Job]] = {
    "cancel": jobs.cancel,
    "pause": jobs.pause,
    "resume": jobs.resume,
    "stop": jobs.stop,
    "retry": jobs.retry,
}


def move_job(parts: AppState, who: Caller, job_id: str, move: JobAction, background: BackgroundTasks) -> Job:
    """Do a move. Raises ``NotFound``, ``InvalidState``, and ``QuotaExceeded`` for a retry that is one job too many."""
    with parts.change(who, f"job.{move}", job_id) as session:
        if move == "retry":  # the one move that makes a finished job unfinished
            quotas.require_job(session, who.project_id, parts.settings)
        job = _MOVES[move](session, who.project_id, job_id)
    announce(parts, job, background)
    return job


def announce(parts: AppState, job: Job, background: BackgroundTasks) -> None:
    """Tell those who follow a job that was moved, and the workers where it waits for one."""
    background.add_task(parts.hints.publish_job_change, job.id)
    if job.status == "queued":
        background.add_task(parts.hints.wake_job_workers, cast("Accelerator", job.accelerator))
