"""Column values of a job for status changes: release from a worker, next status, stage times."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from core.store.db import format_time
from core.store.tables import Job

ReleasedStatus = Literal["cancelled", "paused", "queued"]

NO_FLAGS = {"cancel_requested": False, "pause_requested": False, "stop_requested": False}


def initial_progress(total_steps: int | None) -> dict[str, Any]:
    """Return the progress of a job that has not started."""
    return {
        "fraction": 0.0,
        "step": 0,
        "total_steps": total_steps,
        "epoch": 0,
        "images_per_second": None,
        "eta_seconds": None,
        "stage_step": None,
        "stage_total_steps": None,
    }


def next_status(job: Job) -> ReleasedStatus:
    """Return the status of an unfinished job that leaves its worker; a requested cancel or pause takes effect."""
    if job.cancel_requested:
        return "cancelled"
    return "paused" if job.pause_requested else "queued"


def status_values(job: Job, status: ReleasedStatus, now: datetime) -> dict[str, Any]:
    """Return the values of a job that leaves its worker, or the queue, for ``status``."""
    values: dict[str, Any] = {"status": status, **release_values(job, now)}
    if status == "cancelled":
        return {**values, **NO_FLAGS, "finished_at": now}
    return {**values, "pause_requested": False}


def release_values(job: Job, now: datetime) -> dict[str, Any]:
    """Return the values of a job without a worker."""
    idle = {**job.progress, "images_per_second": None, "eta_seconds": None}
    return {
        "worker_id": None,
        "lease_expires_at": None,
        "stage_entered_at": None,
        "stages": stages_after_leaving(job, now),
        "progress": idle,
    }


def stages_after_leaving(job: Job, now: datetime) -> list[dict[str, Any]]:
    """Return the stages, adding the time that the current attempt has spent in the open stage."""
    if job.stage_entered_at is None:
        return list(job.stages)
    spent = max(0.0, (now - job.stage_entered_at).total_seconds())
    return [
        {**stage, "seconds": round((stage["seconds"] or 0.0) + spent, 3)} if stage["name"] == job.stage else stage
        for stage in job.stages
    ]


def stages_after_entering(job: Job, name: str, now: datetime) -> list[dict[str, Any]]:
    """Return the stages with ``name`` open; a stage that starts again keeps its start time and its seconds."""
    stages = stages_after_leaving(job, now)
    existing = next((stage for stage in stages if stage["name"] == name), None)
    if existing is None:
        return [*stages, {"name": name, "started_at": format_time(now), "finished_at": None, "seconds": None}]
    return [{**stage, "finished_at": None} if stage is existing else stage for stage in stages]
