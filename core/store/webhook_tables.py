"""Tables of webhooks and their deliveries; only ``core.store.webhooks`` changes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from core.store.base import Base, Id, Keyword, ProjectRef

_PENDING = text("status = 'pending'")


class Webhook(Base):
    """Receiver of events. Its secret is derived, not stored (``core.store.webhooks.secrets``)."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("status IN ('enabled', 'disabled')", name="status"),
        Index("ix_webhooks_list", "project_id", "id"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    name: Mapped[str | None]
    url: Mapped[str]
    events: Mapped[list[Any]]  # event types, or "*"
    job_id: Mapped[Id | None]  # only events of this job; may be deleted
    status: Mapped[Keyword]
    disabled_reason: Mapped[Keyword | None]  # request, failing, gone
    secret_salt: Mapped[str] = mapped_column(String(64))
    secret_hash: Mapped[str] = mapped_column(String(64))
    previous_salt: Mapped[str | None] = mapped_column(String(64))  # of the secret before the last rotation
    previous_expires_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]  # first failed attempt since the last success
    num_failures: Mapped[int] = mapped_column(default=0)  # failed attempts since the last success
    last_success_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class WebhookDelivery(Base):
    """One event for one webhook, written in the transaction of the event. Its id is the ``webhook-id``."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'succeeded', 'failed')", name="status"),
        Index("ix_webhook_deliveries_list", "webhook_id", "id"),
        # Few deliveries are pending, so this index stays small.
        Index("ix_webhook_deliveries_due", "next_attempt_at", postgresql_where=_PENDING, sqlite_where=_PENDING),
        Index("ix_webhook_deliveries_finished_at", "finished_at"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectRef]
    webhook_id: Mapped[Id] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[Id]
    type: Mapped[Keyword]
    object_id: Mapped[Id | None]  # the job, dataset, model or sweep of the event
    payload: Mapped[dict[str, Any]]
    status: Mapped[Keyword]
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token
    num_retries: Mapped[int] = mapped_column(default=0)  # position in the retry schedule
    next_attempt_at: Mapped[datetime | None]  # None: finished
    lease_expires_at: Mapped[datetime | None]  # of the sender; None: not being sent
    attempts: Mapped[list[Any]] = mapped_column(default=list)  # attempt, at, status, error, seconds
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
