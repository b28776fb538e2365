"""The database: one engine per process (made after a fork), one transaction per unit of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from psycopg.errors import FeatureNotSupported, ReadOnlySqlTransaction
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from core.errors import Unavailable
from core.settings import Settings
from core.store.base import CleanText, UtcDateTime
from core.store.engine import make_engine
from core.store.schema import is_current, migrate

__all__ = [
    "CleanText",
    "Database",
    "DatabaseUnavailable",
    "Session",
    "UtcDateTime",
    "is_current",
    "make_engine",
    "migrate",
    "open_database",
    "utc_now",
]


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached, or was too busy for too long."""

    code = "database_unavailable"


class Database:
    """Hands out units of work. Rows that they return stay readable after them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        options: dict[str, Any] = {"rw": False}
        if engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        self._reading = engine.execution_options(**options)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction that may write: committed at the end, rolled back on any exception.

        Raises :class:`DatabaseUnavailable` where the database is away or busy for too long.
        """
        with _translated(writing=True), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One transaction that only reads; a write in it is refused. Raises as ``write`` does."""
        with _translated(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        """Return if the database answers; raise :class:`DatabaseUnavailable` if not."""
        with self.read() as session:
            session.execute(select(1))

    def schema_is_current(self) -> bool:
        """Whether ``migrate`` has nothing left to do."""
        with _translated():
            return is_current(self._reading)

    def dispose(self) -> None:
        """Close the connections."""
        self.engine.dispose()


@contextmanager
def _translated(*, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        if not _is_absence(error, writing=writing):
            raise
        raise DatabaseUnavailable("The database cannot be reached or is too busy; try again soon.") from error


def _is_absence(error: DBAPIError | PoolTimeoutError, *, writing: bool) -> bool:
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return True
    # A standby, to which a failover has led this process, may only be read from. In a unit of work that only reads it
    # would be a mistake of ours.
    is_standby = writing and isinstance(error.orig, ReadOnlySqlTransaction | FeatureNotSupported)
    # PostgreSQL calls the end of a session that was idle for too long an internal error.
    return is_standby or error.connection_invalidated


def open_database(settings: Settings) -> Database:
    """Open the database of these settings (``migrate`` it first)."""
    url, seconds = settings.resolved_database_url(), settings.statement_timeout_seconds
    return Database(make_engine(url, statement_seconds=seconds))


def utc_now(session: Session) -> datetime:
    """The time that leases go by: the database's clock where processes may be on several machines."""
    if session.get_bind().dialect.name == "postgresql":
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)
    return datetime.now(UTC)
