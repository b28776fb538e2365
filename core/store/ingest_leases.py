"""What a dataset and an uploaded model have in common: a worker of the ingest queue makes them ready.

The same fencing as for jobs, in small: a claim starts a new attempt, and only that attempt may write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from core.store.db import utc_now
from core.store.job_leases import LeaseLost
from core.store.quotas import add_stored
from core.store.tables import Dataset, Model

MAX_LOSSES = 3  # an upload that takes its worker down so often is not tried again

Row = TypeVar("Row", Dataset, Model)


@dataclass(frozen=True, slots=True)
class IngestLeaseToken:
    """The fencing token of one attempt at a dataset or a model."""

    object_id: str
    attempt: int

    @classmethod
    def of(cls, row: Dataset | Model) -> Self:
        """The token of what was just claimed."""
        return cls(row.id, row.attempt)


def claim(session: Session, table: type[Row], *, worker_id: str, lease_seconds: float) -> Row | None:
    """Take the oldest one that waits, or whose worker is lost; None if there is none."""
    while (found := _candidate(session, table)) is not None:
        now = utc_now(session)
        was_lost = found.worker_id is not None
        losses = found.losses + was_lost
        if losses >= MAX_LOSSES:
            _give_up(session, table, found, losses)
            continue
        return _update(
            session,
            table,
            found,
            attempt=found.attempt + 1,
            losses=losses,
            worker_id=worker_id,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
        )
    return None


def waiting(session: Session, table: type[Row]) -> int:
    """How many could be claimed now."""
    return session.scalars(select(func.count()).select_from(table).where(*_claimable(session, table))).one()


def renew_lease(session: Session, table: type[Row], holding: IngestLeaseToken, lease_seconds: float) -> None:
    """Renew the lease. Raises ``LeaseLost``, also where the object was deleted meanwhile."""
    change(session, table, holding, lease_expires_at=utc_now(session) + timedelta(seconds=lease_seconds))


def release(session: Session, table: type[Row], holding: IngestLeaseToken) -> Row:
    """Leave it for another worker; counts as no loss. Raises ``LeaseLost``."""
    return change(session, table, holding, worker_id=None, lease_expires_at=None)


def ready(session: Session, table: type[Row], holding: IngestLeaseToken, **facts: Any) -> Row:
    """Its files are published and ``facts`` fill its columns. Raises ``LeaseLost``."""
    return _end(session, table, holding, **_over(session, "ready"), **facts)


def fail(session: Session, table: type[Row], holding: IngestLeaseToken, error: dict[str, Any], **facts: Any) -> Row:
    """It cannot be used; ``error`` (``code``, ``message``) says why. Raises ``LeaseLost``."""
    return _end(session, table, holding, **_over(session, "failed"), error=error, **facts)


def change(session: Session, table: type[Row], holding: IngestLeaseToken, **values: Any) -> Row:
    """One guarded UPDATE. Raises ``LeaseLost``."""
    guard = (
        table.id == holding.object_id,
        table.status == "processing",
        table.attempt == holding.attempt,
        table.worker_id.is_not(None),
    )
    row = _change_where(session, table, *guard, **values)
    if row is None:
        raise LeaseLost(f"{holding.object_id} is not held by attempt {holding.attempt} any more")
    return row


# --- inside ---------------------------------------------------------------------------------------


def _give_up(session: Session, table: type[Row], row: Row, losses: int) -> None:
    """As :func:`fail`, of one that no worker holds: what was sent is of no use any more, and takes no room."""
    message = f"Its worker was lost {losses} times; it may need more memory than there is."
    sent = row.size_bytes or 0
    nothing: dict[str, Any] = {"upload_key": None, "size_bytes": None}
    _update(session, table, row, **_over(session, "failed"), losses=losses, error=_error(message), **nothing)
    add_stored(session, row.project_id, -sent)


def _end(session: Session, table: type[Row], holding: IngestLeaseToken, **values: Any) -> Row:
    """Change it for good; its size, and with it what the project stores, is another one from here on."""
    before = session.scalars(select(table.size_bytes).where(table.id == holding.object_id)).one_or_none() or 0
    row = change(session, table, holding, **values)
    add_stored(session, row.project_id, (row.size_bytes or 0) - before)
    return row


def _claimable(session: Session, table: type[Row]) -> tuple[ColumnElement[bool], ...]:
    over = or_(table.lease_expires_at.is_(None), table.lease_expires_at < utc_now(session))
    return (table.status == "processing", over)


def _candidate(session: Session, table: type[Row]) -> Row | None:
    statement = select(table).where(*_claimable(session, table)).order_by(table.id).limit(1)
    statement = statement.with_for_update(skip_locked=True).execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def _update(session: Session, table: type[Row], row: Row, **values: Any) -> Row:
    changed = _change_where(session, table, table.id == row.id, table.attempt == row.attempt, **values)
    assert changed is not None, "the row is locked, so nobody else can have changed it"
    return changed


def _change_where(session: Session, table: type[Row], *guard: ColumnElement[bool], **values: Any) -> Row | None:
    statement = update(table).where(*guard).values(**values).returning(table)
    statement = statement.execution_options(synchronize_session=False, populate_existing=True)
    return session.scalars(statement).one_or_none()


def _over(session: Session, status: str) -> dict[str, Any]:
    return {"status": status, "worker_id": None, "lease_expires_at": None, "finished_at": utc_now(session)}


def _error(message: str) -> dict[str, Any]:
    return {"code": "worker_lost", "message": message}
