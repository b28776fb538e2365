"""What the moves of a job have in common: leaving a worker, where a job lands, the clock of its stages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from core.store.tables import Job

Landing = Literal["cancelled", "paused", "queued"]

NO_FLAGS = {"cancel_requested": False, "pause_requested": False, "stop_requested": False}


def first_progress(total_steps: int | None) -> dict[str, Any]:
    """The progress of a job that has not begun."""
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


def next_status(job: Job) -> Landing:
    """Where a job goes that leaves its worker unfinished: what was asked for meanwhile happens at once."""
    if job.cancel_requested:
        return "cancelled"
    return "paused" if job.pause_requested else "queued"


def status_values(job: Job, status: Landing, now: datetime) -> dict[str, Any]:
    """The values of a job that leaves its worker, or the queue, for ``status``."""
    values: dict[str, Any] = {"status": status, **release_values(job, now)}
    if status == "cancelled":
        return {**values, **NO_FLAGS, "finished_at": now}
    return {**values, "pause_requested": False}


def release_values(job: Job, now: datetime) -> dict[str, Any]:
    """The values of a job that nobody works on."""
    idle = {**job.progress, "images_per_second": None, "eta_seconds": None}
    return {
        "worker_id": None,
        "lease_expires_at": None,
        "stage_entered_at": None,
        "stages": stages_left(job, now),
        "progress": idle,
    }


def stages_left(job: Job, now: datetime) -> list[dict[str, Any]]:
    """The stages, with the time that the attempt at hand has spent in the open one."""
    if job.stage_entered_at is None:
        return list(job.stages)
    spent = max(0.0, (now - job.stage_entered_at).total_seconds())
    return [
        {**stage, "seconds": round((stage["seconds"] or 0.0) + spent, 3)} if stage["name"] == job.stage else stage
        for stage in job.stages
    ]


def stages_entered(job: Job, name: str, now: datetime) -> list[dict[str, Any]]:
    """The stages, with ``name`` open; one that is entered again keeps its start and its time so far."""
    stages = stages_left(job, now)
    known = next((stage for stage in stages if stage["name"] == name), None)
    if known is None:
        return [*stages, {"name": name, "started_at": stamp(now), "finished_at": None, "seconds": None}]
    return [{**stage, "finished_at": None} if stage is known else stage for stage in stages]


def stamp(moment: datetime) -> str:
    """RFC 3339 in UTC, as in the wire's objects."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
