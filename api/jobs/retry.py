"""A retry that changes the job's spec: its error's own fix, or what the caller sends, checked as a new spec is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import to_thread
from fastapi import BackgroundTasks
from pydantic import Field, JsonValue

from api.deps import AppState
from api.downloads import discard
from api.jobs import service
from api.jobs.actions import announce
from core.errors import FieldError, InvalidRequest
from core.spec import JobSpec
from core.spec.document import StrictModel
from core.spec.revision import CHANGEABLE, apply_patch, changes, restart
from core.store import jobs, quotas
from core.store.db import Database
from core.store.jobs import Revision
from core.store.keys import Caller
from core.store.tables import Job


class RetryRequest(StrictModel):
    """How a job is to be retried. Without a body: as it is, from its last checkpoint."""

    apply_fix: bool = Field(default=False, description="Change the spec as the job's `error.fix` says.")
    changes: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="A merge patch (RFC 7396) of the job's spec, applied after the fix; null brings a default back, a "
        f"list replaces a list. It may change {', '.join(f'`{name}`' for name in CHANGEABLE)}. Where the student's "
        "bits depend on what is changed, its training begins anew; the event `job.retried` says so.",
    )

    @property
    def asks_for_changes(self) -> bool:
        """Whether the spec is to be another one."""
        return self.apply_fix or bool(self.changes)


async def retry_changed(
    parts: AppState, who: Caller, job_id: str, asked: RetryRequest, background: BackgroundTasks
) -> Job:
    """Queue a job again with another spec.

    Raises ``NotFound``, ``InvalidState``, ``QuotaExceeded``; ``InvalidRequest`` where there is no fix to apply;
    ``InvalidSpec``, ``NotAvailable`` as a new job's spec does.
    """
    old = await to_thread.run_sync(_job, parts.database, who.project_id, job_id)
    spec = apply_patch(old.spec, _patch(old, asked))
    inputs = await to_thread.run_sync(service.inputs_of, parts, who.project_id, spec)
    resolution = await service.resolve(parts.inspector, spec, inputs, threads=parts.settings.job_threads)
    revision = _revision(old, spec, resolution)
    return await to_thread.run_sync(_queue_again, parts, who, job_id, revision, background)


def _job(database: Database, project_id: str, job_id: str) -> Job:
    with database.read() as session:
        job = jobs.get(session, project_id, job_id)
        jobs.require_retry(job)
        return job


def _patch(job: Job, asked: RetryRequest) -> dict[str, Any]:
    fix = (job.error or {}).get("fix")
    if asked.apply_fix and fix is None:
        detail = "this job's error knows no fix; send changes of your own, or retry it as it is"
        raise InvalidRequest(f"/apply_fix: {detail}", errors=[FieldError("/apply_fix", detail)])
    return _both(fix, asked.changes) if asked.apply_fix and fix else dict(asked.changes)


def _both(fix: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two patches as one. Not the one merged into the other: a null of the second would be lost on the way."""
    merged = dict(fix)
    for name, value in more.items():
        inner = merged.get(name)
        merged[name] = _both(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _revision(old: Job, spec: JobSpec, resolution: service.Resolution | None) -> Revision:
    document = spec.model_dump(mode="json") if resolution is None else resolution["spec"]
    total_steps = old.progress["total_steps"] if resolution is None else resolution["estimate"]["total_steps"]
    return Revision(
        of_seq=old.last_seq,
        spec=document,
        resolved=resolution is not None,
        total_steps=total_steps,
        changes=changes(old.spec, document),
        tracks=restart(old.spec, document).tracks,
    )


def _queue_again(parts: AppState, who: Caller, job_id: str, revision: Revision, background: BackgroundTasks) -> Job:
    with parts.change(who, "job.retry", job_id) as session:
        quotas.require_job(session, who.project_id, parts.settings)
        job, files = jobs.retry_revised(session, who.project_id, job_id, revision)
    discard(parts.store, files)
    announce(parts, job, background)
    return job
