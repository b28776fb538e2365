"""Actions on a job, from the API or the dashboard: executed, recorded in the audit log, and published."""

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

_ACTIONS: Mapping[JobAction, Callable[[Session, str, str], Job]] = {
    "cancel": jobs.cancel,
    "pause": jobs.pause,
    "resume": jobs.resume,
    "stop": jobs.stop,
    "retry": jobs.retry,
}


def apply_action(state: AppState, caller: Caller, job_id: str, action: JobAction, background: BackgroundTasks) -> Job:
    """Apply an action to a job. Raises ``NotFound``, ``InvalidState``, and ``QuotaExceeded`` for a retry."""
    with state.change(caller, f"job.{action}", job_id) as session:
        if action == "retry":  # the only action that makes a finished job count against the quota again
            quotas.require_job_slot(session, caller.project_id, state.settings)
        job = _ACTIONS[action](session, caller.project_id, job_id)
    notify(state, job, background)
    return job


def notify(state: AppState, job: Job, background: BackgroundTasks) -> None:
    """Publish the change to watchers of the job, and wake the workers if it is queued."""
    background.add_task(state.broker.publish_job_change, job.id)
    if job.status == "queued":
        background.add_task(state.broker.wake_job_workers, cast("Accelerator", job.accelerator))
