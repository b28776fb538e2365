"""Tables of the work for jobs on other services; ``core.store.outbound`` changes the tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, Keyword, ProjectRef

_PENDING = text("status = 'pending'")


class OutboundTask(Base):
    """Work on another service for one job: a push to a hub, or the run of a tracking server."""

    __tablename__ = "outbound_tasks"
    __table_args__ = (
        CheckConstraint("kind IN ('push', 'tracking')", name="kind"),
        CheckConstraint("status IN ('pending', 'succeeded', 'failed')", name="status"),
        Index("ix_outbound_tasks_job", "job_id", "kind", "id"),
        # Few tasks are pending, so this index stays small.
        Index("ix_outbound_tasks_due", "next_attempt_at", postgresql_where=_PENDING, sqlite_where=_PENDING),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    job_id: Mapped[Id] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[Keyword]
    target: Mapped[dict[str, Any]]  # as requested: repository, revision, files
    secret: Mapped[str | None]  # the caller's token, encrypted (core.store.sealed); null once the task has ended
    state: Mapped[dict[str, Any]] = mapped_column(default=dict)  # what is done: run id, last step of each series
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]  # of the last attempt: code, message
    status: Mapped[Keyword]
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token
    num_failures: Mapped[int] = mapped_column(default=0)  # attempts in a row without success
    generation: Mapped[int] = mapped_column(default=0)  # incremented by an event that makes the task due again
    next_attempt_at: Mapped[datetime | None]  # None: finished
    lease_expires_at: Mapped[datetime | None]  # None: no attempt runs
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Integration(Base):
    """A service that all jobs are reported to, while its row exists. Belongs to no project."""

    __tablename__ = "integrations"

    kind: Mapped[Keyword] = mapped_column(primary_key=True)
    enabled_at: Mapped[datetime]
