"""Pushes of students to a hub: requested by a client, run by the scheduler, visible as events of the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store import events, outbound
from core.store.jobs import get as get_job
from core.store.jobs.actions import lock
from core.store.outbound_tables import OutboundTask
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.sealed import seal
from core.store.tables import Job


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Repository and revision of a push, the visibility of a new repository, and the artifacts."""

    repo: str
    revision: str
    private: bool
    files: Sequence[str]
    message: str
    license: str | None


def create(
    session: Session, project_id: str, job_id: str, target: PushTarget, *, token: str, secret_key: str
) -> OutboundTask:
    """Queue a push of a job's artifacts; the token is stored encrypted until it ends. Raises ``NotFound``."""
    job = lock(session, project_id, job_id)
    push_id = outbound.new_task_id("push")
    sealed = seal(secret_key, push_id, token)
    push = outbound.add(session, job, "push", asdict(target), task_id=push_id, secret=sealed)
    data = {"push": push.id, "repo": target.repo, "revision": target.revision}
    events.record(session, job.id, "push.created", f"Push to {target.repo} requested.", data=data)
    return push


def list_pushes(
    session: Session, project_id: str, job_id: str, *, limit: int = 20, after: str | None = None
) -> Page[OutboundTask]:
    """List the pushes of a job, newest first. Raises ``NotFound``, and ``InvalidRequest`` for ``after``."""
    get_job(session, project_id, job_id)
    statement = select(OutboundTask).where(OutboundTask.job_id == job_id, OutboundTask.kind == "push")
    return paginate_newest_first(session, statement, OutboundTask.id, limit=limit, after=after, prefix="push")


def get(session: Session, project_id: str, job_id: str, push_id: str) -> OutboundTask:
    """Load a push. Raises ``NotFound``."""
    require_id(push_id, "push", "push")
    push = session.scalars(
        select(OutboundTask).where(
            OutboundTask.project_id == project_id,
            OutboundTask.job_id == job_id,
            OutboundTask.kind == "push",
            OutboundTask.id == push_id,
        )
    ).one_or_none()
    if push is None:
        raise not_found("push", push_id)
    return push


def record_end(session: Session, job: Job, push: OutboundTask) -> None:
    """Record the event of a push that has ended; the job is locked."""
    repo = push.target["repo"]
    data = {"push": push.id, "repo": repo, "revision": push.target["revision"]}
    if push.error is None:
        events.record(session, job.id, "push.succeeded", f"Pushed to {repo}.", data=data | dict(push.result or {}))
    else:
        message = f"The push to {repo} failed: {push.error['message']}"
        events.record(session, job.id, "push.failed", message, level="error", data=data | {"error": push.error})
