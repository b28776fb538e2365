"""Transactions that take effect once, although a broken connection makes the caller retry them.

A connection that breaks during a commit leaves the outcome unknown, and a second run would write an event twice.
PostgreSQL reports the status of a transaction id. SQLite commits in this process, so its outcome is always known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.store.db import Database, DatabaseUnavailable, is_postgresql

Value = TypeVar("Value")


class IdempotentTransaction(Generic[Value]):
    """Work that can be retried after :class:`DatabaseUnavailable` and takes effect once."""

    def __init__(self, database: Database, work: Callable[[Session], Value]) -> None:
        self._database = database
        self._work = work
        self._uncertain_xid: str | None = None  # the transaction whose commit was not confirmed
        self._value: Value

    def run(self) -> Value:
        """Run the work in one transaction, unless an earlier call was committed after all.

        Raises ``DatabaseUnavailable``, after which the caller retries, and any exception of the work.
        """
        if self._uncertain_xid is not None and self._was_committed(self._uncertain_xid):
            return self._value
        with self._database.write() as session:
            self._value = self._work(session)
            session.flush()
            self._uncertain_xid = _current_xid(session)
        return self._value

    def _was_committed(self, xid: str) -> bool:
        statement = text("SELECT pg_xact_status(CAST(:xid AS xid8))")
        with self._database.read() as session:
            status = session.execute(statement, {"xid": xid}).scalar_one()
        if status == "in progress":
            raise DatabaseUnavailable("The last transaction is still in progress in the database; try again soon.")
        self._uncertain_xid = None
        return bool(status == "committed")


def _current_xid(session: Session) -> str | None:
    if not is_postgresql(session):
        return None
    # None if nothing was written: then the outcome does not matter.
    xid: str | None = session.execute(text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")).scalar_one()
    return xid
