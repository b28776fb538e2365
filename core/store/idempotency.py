"""Idempotency keys: requests with the same ``Idempotency-Key`` create one object and get one response.

``begin`` may use its own transaction (then a concurrent duplicate gets a 409) or the one that creates the object.
``finish`` must use the transaction that creates the object, so that both are committed or neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from core.errors import IdempotencyKeyReused, RequestInFlight
from core.store.db import insert_or_conflict, utc_now
from core.store.tables import IdempotencyRecord

IN_FLIGHT_SECONDS = 60.0  # an older request without a response is taken for dead with its process


@dataclass(frozen=True, slots=True)
class FirstRequest:
    """First request with its key, which must do the work; ``token`` lets it write the response."""

    project_id: str
    key: str
    token: str


@dataclass(frozen=True, slots=True)
class Replay:
    """Stored response of the first request."""

    status: int
    body: dict[str, Any]


def begin(
    session: Session, project_id: str, key: str, fingerprint: str, *, in_flight_seconds: float = IN_FLIGHT_SECONDS
) -> FirstRequest | Replay:
    """Register a request, or return the stored response of an earlier one with the same key.

    ``fingerprint``: sha256 (hex) of method, path and body. Raises ``IdempotencyKeyReused`` if the key was used with
    another fingerprint, and ``RequestInFlight`` if the first request is still running.
    """
    new = FirstRequest(project_id, key, secrets.token_hex(16))
    now = utc_now(session)
    expires_at = now + timedelta(seconds=in_flight_seconds)
    # PostgreSQL waits here for an uncommitted duplicate, and then sees its row.
    inserted = session.execute(
        insert_or_conflict(session, IdempotencyRecord)
        .values(
            project_id=project_id,
            key=key,
            fingerprint=fingerprint,
            token=new.token,
            created_at=now,
            in_flight_expires_at=expires_at,
        )
        .on_conflict_do_nothing(index_elements=["project_id", "key"])
        .returning(IdempotencyRecord.key)
    ).one_or_none()
    if inserted is not None:
        return new
    record = _lock_record(session, new)
    if record is None:  # abandoned between the two statements
        return begin(session, project_id, key, fingerprint, in_flight_seconds=in_flight_seconds)
    if record.fingerprint != fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key was used with another request; use a new key for this one.")
    if record.status is not None:
        return Replay(record.status, dict(record.body or {}))
    if record.in_flight_expires_at > now:
        raise RequestInFlight("The first request with this Idempotency-Key is still running; try again in a moment.")
    record.token, record.created_at, record.in_flight_expires_at = new.token, now, expires_at
    session.flush()
    return new


def finish(session: Session, new: FirstRequest, status: int, body: Mapping[str, Any]) -> None:
    """Store the response. Raises ``RequestInFlight`` if another request took over: then roll back."""
    updated = session.execute(
        update(IdempotencyRecord)
        .where(*_token_filter(new))
        .values(status=status, body=dict(body))
        .returning(IdempotencyRecord.key)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if updated is None:
        raise RequestInFlight("This request took too long, and another one with its Idempotency-Key took over.")


def abandon(session: Session, new: FirstRequest) -> None:
    """Delete the record of a request that created nothing, so that its key can be used again."""
    session.execute(
        delete(IdempotencyRecord)
        .where(*_token_filter(new), IdempotencyRecord.status.is_(None))
        .execution_options(synchronize_session=False)
    )


def expire(session: Session, hours: float) -> int:
    """Delete records older than ``hours``; return their number."""
    old = IdempotencyRecord.created_at < utc_now(session) - timedelta(hours=hours)
    deleted = session.execute(
        delete(IdempotencyRecord)
        .where(old)
        .returning(IdempotencyRecord.key)
        .execution_options(synchronize_session=False)
    )
    return len(deleted.all())


def _lock_record(session: Session, new: FirstRequest) -> IdempotencyRecord | None:
    statement = select(IdempotencyRecord).where(
        IdempotencyRecord.project_id == new.project_id, IdempotencyRecord.key == new.key
    )
    statement = statement.with_for_update().execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def _token_filter(new: FirstRequest) -> tuple[ColumnElement[bool], ...]:
    return (
        IdempotencyRecord.project_id == new.project_id,
        IdempotencyRecord.key == new.key,
        IdempotencyRecord.token == new.token,
    )
