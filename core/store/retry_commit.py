"""A unit of work that is done once, however often the database goes away meanwhile.

A connection that breaks during a commit leaves open whether the commit happened, and doing the work again would write
an event twice. PostgreSQL can be asked; SQLite's commit has no answer that could be lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.store.db import Database, DatabaseUnavailable

Value = TypeVar("Value")


class IdempotentTransaction(Generic[Value]):
    """Work that may be tried again after :class:`DatabaseUnavailable`, and has an effect once."""

    def __init__(self, database: Database, work: Callable[[Session], Value]) -> None:
        self._database = database
        self._work = work
        self._unsure: str | None = None  # the transaction whose commit was not answered
        self._value: Value

    def attempt(self) -> Value:
        """Do the work in one transaction, unless an earlier attempt turns out to have been committed after all.

        Raises ``DatabaseUnavailable``: then try again; and whatever the work raises.
        """
        if self._unsure is not None and self._was_committed(self._unsure):
            return self._value
        with self._database.write() as session:
            self._value = self._work(session)
            session.flush()
            self._unsure = _transaction(session)
        return self._value

    def _was_committed(self, transaction: str) -> bool:
        asked = text("SELECT pg_xact_status(CAST(:transaction AS xid8))")
        with self._database.read() as session:
            status = session.execute(asked, {"transaction": transaction}).scalar_one()
        if status == "in progress":
            raise DatabaseUnavailable("The database has not decided about the last transaction yet; try again soon.")
        self._unsure = None
        return bool(status == "committed")


def _transaction(session: Session) -> str | None:
    if session.get_bind().dialect.name != "postgresql":
        return None
    # None where nothing was written: then there is nothing to be unsure about.
    number: str | None = session.execute(text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")).scalar_one()
    return number
