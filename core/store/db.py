"""Database access: one engine per process (created after a fork), one transaction per unit of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from psycopg.errors import FeatureNotSupported, ReadOnlySqlTransaction
from sqlalchemy import Engine, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from core.errors import Unavailable
from core.settings import Settings
from core.store.base import Base, CleanText, UtcDateTime
from core.store.engine import make_engine
from core.store.schema import is_current, migrate

__all__ = [
    "CleanText",
    "Database",
    "DatabaseUnavailable",
    "Session",
    "UtcDateTime",
    "format_time",
    "insert_or_conflict",
    "is_current",
    "is_postgresql",
    "make_engine",
    "migrate",
    "open_database",
    "utc_now",
]


class DatabaseUnavailable(Unavailable):
    """The database is unreachable, or a wait for it timed out."""

    code = "database_unavailable"


class Database:
    """Opens transactions. Rows loaded in one stay readable after it ends."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        options: dict[str, Any] = {"rw": False}
        if engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        self._read_engine = engine.execution_options(**options)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that may write: committed at the end, rolled back on any exception.

        Raises :class:`DatabaseUnavailable` if the database is unreachable or a wait for it timed out.
        """
        with _translate_errors(writing=True), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a read-only transaction, in which a write fails. Raises as ``write`` does."""
        with _translate_errors(), Session(self._read_engine, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        """Run a trivial query. Raises :class:`DatabaseUnavailable`."""
        with self.read() as session:
            session.execute(select(1))

    def schema_is_current(self) -> bool:
        """Whether ``migrate`` would change nothing."""
        with _translate_errors():
            return is_current(self._read_engine)

    def dispose(self) -> None:
        """Close the connections."""
        self.engine.dispose()


@contextmanager
def _translate_errors(*, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        if not _is_unavailable(error, writing=writing):
            raise
        raise DatabaseUnavailable("The database cannot be reached or is too busy; try again soon.") from error


def _is_unavailable(error: DBAPIError | PoolTimeoutError, *, writing: bool) -> bool:
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return True
    # After a failover the process may be connected to a read-only standby. In a read-only transaction the same errors
    # are a bug.
    is_standby = writing and isinstance(error.orig, ReadOnlySqlTransaction | FeatureNotSupported)
    # PostgreSQL reports an idle-session timeout as an internal error.
    return is_standby or error.connection_invalidated


def open_database(settings: Settings) -> Database:
    """Open the database of these settings; run ``migrate`` first."""
    url, seconds = settings.resolved_database_url(), settings.statement_timeout_seconds
    return Database(make_engine(url, statement_timeout_seconds=seconds))


def utc_now(session: Session) -> datetime:
    """Return the current time by the clock of leases: the database's, as several machines may share PostgreSQL."""
    if is_postgresql(session):
        now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)
    return datetime.now(UTC)


def format_time(time: datetime) -> str:
    """Format a time as RFC 3339 in UTC, as in API responses."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_postgresql(session: Session) -> bool:
    """Whether the session's database is PostgreSQL (else SQLite)."""
    return session.get_bind().dialect.name == "postgresql"


def insert_or_conflict(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT of the session's dialect, which has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return postgresql.insert(table) if is_postgresql(session) else sqlite.insert(table)
