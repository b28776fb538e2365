"""The audit log: which key changed what, when, from where and in which request. Written with the change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store.db import utc_now
from core.store.keys import Caller
from core.store.pagination import Page, newest_first
from core.store.project_tables import AuditEntry

Outcome = Literal["done", "refused"]


def record(session: Session, who: Caller, action: str, object_id: str | None, *, outcome: Outcome = "done") -> None:
    """Add an entry; it is there if, and only if, the unit of work that makes the change is committed."""
    session.add(
        AuditEntry(
            id=new_id("aud"),
            project_id=who.project_id,
            key_id=who.key_id,
            action=action,
            object_id=object_id,
            outcome=outcome,
            request_id=who.request_id,
            client_address=who.client_address[:64],
            created_at=utc_now(session),
        )
    )
    session.flush()


def last_refusal(session: Session, who: Caller, action: str, object_id: str) -> datetime | None:
    """When the project was last told that this was refused to this key; None: never, or long ago."""
    told = select(AuditEntry.created_at).where(
        AuditEntry.project_id == who.project_id,
        AuditEntry.object_id == object_id,
        AuditEntry.key_id == who.key_id,
        AuditEntry.action == action,
        AuditEntry.outcome == "refused",
    )
    return session.scalars(told.order_by(AuditEntry.id.desc()).limit(1)).one_or_none()


def list_entries(
    session: Session,
    project_id: str,
    *,
    key_id: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Page[AuditEntry]:
    """The project's entries, newest first. Raises ``InvalidRequest`` for an ``after`` that is no entry's id."""
    statement = select(AuditEntry).where(AuditEntry.project_id == project_id)
    asked = ((AuditEntry.key_id, key_id), (AuditEntry.action, action), (AuditEntry.object_id, object_id))
    for column, value in asked:
        if value is not None:
            statement = statement.where(column == value)
    return newest_first(session, statement, AuditEntry.id, limit=limit, after=after, prefix="aud")


def expire(session: Session, days: float) -> int:
    """Forget what is older; returns how many entries."""
    old = AuditEntry.created_at < utc_now(session) - timedelta(days=days)
    statement = delete(AuditEntry).where(old).returning(AuditEntry.id).execution_options(synchronize_session=False)
    return len(session.execute(statement).all())
