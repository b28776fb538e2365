"""Retries that change the job's spec: by its error's fix or by a patch from the caller, validated like a new spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import to_thread
from fastapi import BackgroundTasks
from pydantic import Field, JsonValue

from api.deps import AppState
from api.downloads import discard
from api.jobs import service
from api.jobs.actions import notify
from api.problems import invalid_field
from api.references import check_name
from core.errors import InvalidSpec
from core.spec import JobSpec, parse_job_spec
from core.spec.document import StrictModel
from core.spec.revision import CHANGEABLE, apply_patch, changes, restart_scope
from core.store import jobs, quotas
from core.store.db import Database
from core.store.jobs import Revision
from core.store.keys import Caller
from core.store.tables import Job


class RetryRequest(StrictModel):
    """How to retry a job. Without a body the spec stays unchanged, and the job resumes from its last checkpoint."""

    apply_fix: bool = Field(default=False, description="Apply the job's `error.fix` to the spec.")
    changes: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="A merge patch (RFC 7396) of the job's spec, applied after the fix; null restores a default, a "
        f"list replaces a list. It may change {', '.join(f'`{name}`' for name in CHANGEABLE)}. If the student's "
        "weights depend on a change, its training restarts; the event `job.retried` reports this.",
    )

    @property
    def has_changes(self) -> bool:
        """Whether the retry changes the spec."""
        return self.apply_fix or bool(self.changes)


async def retry_with_changes(
    state: AppState, caller: Caller, job_id: str, request: RetryRequest, background: BackgroundTasks
) -> Job:
    """Queue a job again with a changed spec.

    Raises ``NotFound``, ``InvalidState``, ``QuotaExceeded``; ``InvalidRequest`` without a fix to apply;
    ``InvalidSpec`` and ``NotAvailable`` like a new job's spec.
    """
    old = await to_thread.run_sync(_read_retryable_job, state.database, caller.project_id, job_id)
    spec = apply_patch(old.spec, _patch(old, request))
    if spec.name != old.name:
        check_name(spec.name, error=InvalidSpec, is_keyword_reserved=True)
    spec, inputs = await to_thread.run_sync(service.read_inputs, state, caller.project_id, spec)
    resolution = await service.resolve(state.inspector, spec, inputs, threads=state.settings.job_threads)
    revision = _revision(old, spec, inputs, resolution)
    return await to_thread.run_sync(_queue_again, state, caller, job_id, revision, background)


def _read_retryable_job(database: Database, project_id: str, job_id: str) -> Job:
    with database.read() as session:
        job = jobs.get(session, project_id, job_id)
        jobs.require_retry(job)
        return job


def _patch(job: Job, request: RetryRequest) -> dict[str, Any]:
    fix = (job.error or {}).get("fix")
    if request.apply_fix and fix is None:
        raise invalid_field("/apply_fix", "this job's error has no fix; send changes, or retry without a body")
    return _combine(fix, request.changes) if request.apply_fix and fix else dict(request.changes)


def _combine(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Combine two merge patches into one. Applying ``second`` to ``first`` would lose the nulls of ``second``."""
    combined = dict(first)
    for name, value in second.items():
        inner = combined.get(name)
        combined[name] = _combine(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return combined


def _revision(old: Job, spec: JobSpec, inputs: service.Inputs, resolution: service.Resolution | None) -> Revision:
    document = service.spec_document(spec, inputs, resolution)
    total_steps = old.progress["total_steps"] if resolution is None else resolution["estimate"]["total_steps"]
    before = parse_job_spec(old.spec).model_dump(mode="json")  # a job of an older version lacks newer fields
    return Revision(
        base_seq=old.last_seq,
        spec=document,
        resolved=resolution is not None,
        total_steps=total_steps,
        warnings=service.resolution_warnings(resolution, inputs),
        changes=changes(before, document),
        tracks=restart_scope(before, document).tracks,
    )


def _queue_again(state: AppState, caller: Caller, job_id: str, revision: Revision, background: BackgroundTasks) -> Job:
    with state.change(caller, "job.retry", job_id) as session:
        quotas.require_job_slot(session, caller.project_id, state.settings)
        job, files = jobs.retry_revised(session, caller.project_id, job_id, revision)
    discard(state.store, files)
    notify(state, job, background)
    return job
