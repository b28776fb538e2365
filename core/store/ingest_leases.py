"""Leases of datasets and uploaded models, which the ingest worker processes.

Fencing works as for jobs: a claim starts a new attempt, and only that attempt may write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from core.errors import WorkerLost
from core.store import counters, uploads
from core.store.counters import LEASE_LOSSES, Observation
from core.store.db import utc_now
from core.store.job_leases import LeaseLost
from core.store.quotas import add_stored
from core.store.tables import Dataset, Model
from core.store.webhooks import outbox

MAX_WORKER_LOSSES = 3  # afterwards an upload that crashes its worker is not retried

Row = TypeVar("Row", Dataset, Model)


@dataclass(frozen=True, slots=True)
class IngestLeaseToken:
    """Fencing token of one attempt at a dataset or a model."""

    object_id: str
    attempt: int

    @classmethod
    def from_row(cls, row: Dataset | Model) -> Self:
        """Return the token of a dataset or model that was just claimed."""
        return cls(row.id, row.attempt)


def claim(session: Session, table: type[Row], *, worker_id: str, lease_seconds: float) -> Row | None:
    """Claim the oldest row that waits or whose lease has expired; None if there is none."""
    while (row := _candidate(session, table)) is not None:
        now = utc_now(session)
        was_lost = row.worker_id is not None
        worker_losses = row.worker_losses + was_lost
        if was_lost:
            counters.record(session, [Observation(LEASE_LOSSES, (table.__name__.lower(), WorkerLost.code))])
        if worker_losses >= MAX_WORKER_LOSSES:
            _fail_lost(session, table, row, worker_losses)
            continue
        return _update(
            session,
            table,
            row,
            attempt=row.attempt + 1,
            worker_losses=worker_losses,
            worker_id=worker_id,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
        )
    return None


def count_claimable(session: Session, table: type[Row]) -> int:
    """Count the rows that can be claimed now."""
    return session.scalars(select(func.count()).select_from(table).where(*_claimable(session, table))).one()


def renew_lease(session: Session, table: type[Row], lease: IngestLeaseToken, lease_seconds: float) -> None:
    """Renew the lease. Raises ``LeaseLost``, also if the row was deleted meanwhile."""
    change(session, table, lease, lease_expires_at=utc_now(session) + timedelta(seconds=lease_seconds))


def release(session: Session, table: type[Row], lease: IngestLeaseToken) -> Row:
    """Release the row for another worker, which does not count as a worker loss. Raises ``LeaseLost``."""
    return change(session, table, lease, worker_id=None, lease_expires_at=None)


def mark_ready(session: Session, table: type[Row], lease: IngestLeaseToken, **values: Any) -> Row:
    """Mark the row as ready: its files are published; ``values`` are other columns. Raises ``LeaseLost``."""
    return _finish(session, table, lease, **_finished_values(session, "ready"), **values)


def fail(session: Session, table: type[Row], lease: IngestLeaseToken, error: dict[str, Any], **values: Any) -> Row:
    """Mark the row as failed with ``error`` (``code``, ``message``). Raises ``LeaseLost``."""
    return _finish(session, table, lease, **_finished_values(session, "failed"), error=error, **values)


def change(session: Session, table: type[Row], lease: IngestLeaseToken, **values: Any) -> Row:
    """Update the row in one guarded statement. Raises ``LeaseLost``."""
    guard = (
        table.id == lease.object_id,
        table.status == "processing",
        table.attempt == lease.attempt,
        table.worker_id.is_not(None),
    )
    row = _change_where(session, table, *guard, **values)
    if row is None:
        raise LeaseLost(f"attempt {lease.attempt} no longer holds {lease.object_id}")
    return row


# --- internal ---------------------------------------------------------------------------------------


def _fail_lost(session: Session, table: type[Row], row: Row, worker_losses: int) -> None:
    """Mark a row that no worker holds as failed, and drop its upload."""
    message = f"Its worker was lost {worker_losses} times; it may need more memory than there is."
    upload_bytes = row.size_bytes or 0
    values = _finished_values(session, "failed") | {"error": {"code": WorkerLost.code, "message": message}}
    values |= {"worker_losses": worker_losses, "upload_key": None, "size_bytes": None}
    changed = _update(session, table, row, **values)
    outbox.add_ingest_end(session, changed)
    add_stored(session, row.project_id, -upload_bytes)


def _finish(session: Session, table: type[Row], lease: IngestLeaseToken, **values: Any) -> Row:
    """Write the final values, and add the change of the row's size to the stored bytes of the project."""
    columns = select(table.size_bytes, table.upload_id).where(table.id == lease.object_id)
    old_bytes, upload_id = session.execute(columns).one_or_none() or (None, None)
    row = change(session, table, lease, **values)
    outbox.add_ingest_end(session, row)
    if upload_id is not None and row.status == "ready":
        uploads.consume(session, upload_id)
    add_stored(session, row.project_id, (row.size_bytes or 0) - (old_bytes or 0))
    return row


def _claimable(session: Session, table: type[Row]) -> tuple[ColumnElement[bool], ...]:
    is_free = or_(table.lease_expires_at.is_(None), table.lease_expires_at < utc_now(session))
    return (table.status == "processing", is_free)


def _candidate(session: Session, table: type[Row]) -> Row | None:
    statement = select(table).where(*_claimable(session, table)).order_by(table.id).limit(1)
    statement = statement.with_for_update(skip_locked=True).execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def _update(session: Session, table: type[Row], row: Row, **values: Any) -> Row:
    changed = _change_where(session, table, table.id == row.id, table.attempt == row.attempt, **values)
    assert changed is not None, "the row is locked by this transaction"
    return changed


def _change_where(session: Session, table: type[Row], *guard: ColumnElement[bool], **values: Any) -> Row | None:
    statement = update(table).where(*guard).values(**values).returning(table)
    statement = statement.execution_options(synchronize_session=False, populate_existing=True)
    return session.scalars(statement).one_or_none()


def _finished_values(session: Session, status: str) -> dict[str, Any]:
    """Return the values of a row that is ready or failed; a failed one leaves its resumable upload for another try."""
    values = {"status": status, "worker_id": None, "lease_expires_at": None, "finished_at": utc_now(session)}
    return {**values, "upload_id": None}
