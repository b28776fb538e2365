"""Audit log: key, action, object, time, client and request of each change. Written with the change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.ids import new_id
from core.store.db import utc_now
from core.store.keys import Caller
from core.store.pagination import Page, paginate_newest_first
from core.store.project_tables import AuditEntry

Outcome = Literal["done", "refused"]


def record(session: Session, caller: Caller, action: str, object_id: str | None, *, outcome: Outcome = "done") -> None:
    """Add an entry in the transaction that makes the change, so that both are committed or neither."""
    session.add(
        AuditEntry(
            id=new_id("aud"),
            project_id=caller.project_id,
            key_id=caller.key_id,
            subject=caller.subject,
            action=action,
            object_id=object_id,
            outcome=outcome,
            request_id=caller.request_id,
            client_address=caller.client_address[:64],
            created_at=utc_now(session),
        )
    )
    session.flush()


def last_refusal(session: Session, caller: Caller, action: str, object_id: str) -> datetime | None:
    """Return the time of the latest ``refused`` entry for this key, action and object; None if there is none."""
    statement = select(AuditEntry.created_at).where(
        AuditEntry.project_id == caller.project_id,
        AuditEntry.object_id == object_id,
        AuditEntry.key_id == caller.key_id,
        AuditEntry.action == action,
        AuditEntry.outcome == "refused",
    )
    return session.scalars(statement.order_by(AuditEntry.id.desc()).limit(1)).one_or_none()


def list_entries(
    session: Session,
    project_id: str,
    *,
    key_id: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Page[AuditEntry]:
    """List the project's entries, newest first. The time range includes its start and excludes its end.

    Raises ``InvalidRequest`` if ``after`` is not the id of an entry.
    """
    statement = select(AuditEntry).where(AuditEntry.project_id == project_id)
    filters = ((AuditEntry.key_id, key_id), (AuditEntry.action, action), (AuditEntry.object_id, object_id))
    for column, value in filters:
        if value is not None:
            statement = statement.where(column == value)
    if created_after is not None:
        statement = statement.where(AuditEntry.created_at >= created_after)
    if created_before is not None:
        statement = statement.where(AuditEntry.created_at < created_before)
    return paginate_newest_first(session, statement, AuditEntry.id, limit=limit, after=after, prefix="aud")


def expire(session: Session, days: float) -> int:
    """Delete entries older than ``days``; return their number."""
    old = AuditEntry.created_at < utc_now(session) - timedelta(days=days)
    statement = delete(AuditEntry).where(old).returning(AuditEntry.id).execution_options(synchronize_session=False)
    return len(session.execute(statement).all())
