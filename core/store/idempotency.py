"""One answer for a creating request, however often it is sent with the same ``Idempotency-Key``.

``begin`` may be a unit of work of its own (so that a twin at the same time is told 409) or share the
one that creates. ``finish`` belongs into the unit of work that creates the object: either both are
there or neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.errors import IdempotencyKeyReused, RequestInFlight
from core.store.db import utc_now
from core.store.tables import IdempotencyRecord

PATIENCE_SECONDS = 60.0  # an unanswered request older than this died with its process


@dataclass(frozen=True, slots=True)
class New:
    """This request is the one to do the work; ``token`` lets it write the answer."""

    project_id: str
    key: str
    token: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The work was done before; this was the answer."""

    status: int
    body: dict[str, Any]


def begin(
    session: Session, project_id: str, key: str, fingerprint: str, *, patience_seconds: float = PATIENCE_SECONDS
) -> New | Replay:
    """Find out whether a request is the first with its key.

    ``fingerprint``: sha256 (hex) of method, path and body. Raises ``IdempotencyKeyReused`` where the key
    came with another one, ``RequestInFlight`` where the first request is still running.
    """
    new = New(project_id, key, secrets.token_hex(16))
    now = utc_now(session)
    patience = now + timedelta(seconds=patience_seconds)
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    # On PostgreSQL this waits for a twin that has not committed yet, and then sees what it wrote.
    inserted = session.execute(
        insert(IdempotencyRecord)
        .values(
            project_id=project_id,
            key=key,
            fingerprint=fingerprint,
            token=new.token,
            created_at=now,
            patience_ends_at=patience,
        )
        .on_conflict_do_nothing(index_elements=["project_id", "key"])
        .returning(IdempotencyRecord.key)
    ).one_or_none()
    if inserted is not None:
        return new
    found = session.scalars(_record(new).with_for_update().execution_options(populate_existing=True)).one_or_none()
    if found is None:  # given up between the two statements
        return begin(session, project_id, key, fingerprint, patience_seconds=patience_seconds)
    if found.fingerprint != fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key came with another request before; use a new key for this one.")
    if found.status is not None:
        return Replay(found.status, dict(found.body or {}))
    if found.patience_ends_at > now:
        raise RequestInFlight("The first request with this Idempotency-Key is still running; try again in a moment.")
    found.token, found.created_at, found.patience_ends_at = new.token, now, patience
    session.flush()
    return new


def finish(session: Session, new: New, status: int, body: Mapping[str, Any]) -> None:
    """Keep the answer. Raises ``RequestInFlight`` where another request took over meanwhile: roll back."""
    kept = session.execute(
        update(IdempotencyRecord)
        .where(*_mine(new))
        .values(status=status, body=dict(body))
        .returning(IdempotencyRecord.key)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if kept is None:
        raise RequestInFlight("This request took too long and another one with its Idempotency-Key took over.")


def abandon(session: Session, new: New) -> None:
    """Forget a request that created nothing, so that its key can be used again."""
    session.execute(
        delete(IdempotencyRecord)
        .where(*_mine(new), IdempotencyRecord.status.is_(None))
        .execution_options(synchronize_session=False)
    )


def expire(session: Session, hours: float) -> int:
    """Forget what is older; returns how many."""
    old = IdempotencyRecord.created_at < utc_now(session) - timedelta(hours=hours)
    gone = session.execute(
        delete(IdempotencyRecord)
        .where(old)
        .returning(IdempotencyRecord.key)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())


def _record(new: New) -> Any:
    return select(IdempotencyRecord).where(
        IdempotencyRecord.project_id == new.project_id, IdempotencyRecord.key == new.key
    )


def _mine(new: New) -> tuple[Any, ...]:
    return (
        IdempotencyRecord.project_id == new.project_id,
        IdempotencyRecord.key == new.key,
        IdempotencyRecord.token == new.token,
    )
