"""SQLAlchemy engines for SQLite and PostgreSQL. Create them after a fork, never before.

SQLite: a write transaction starts with ``BEGIN IMMEDIATE``. It never upgrades a snapshot, which is the cause of
"database is locked". PostgreSQL: statements, idle transactions and responses have timeouts.
"""

from __future__ import annotations

import math
import sqlite3
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Connection, Engine, FromClause, create_engine, event, make_url
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

POOL_TIMEOUT_SECONDS = 10  # wait for a pooled connection
BUSY_TIMEOUT_SECONDS = 5  # wait of a SQLite writer for another one
_WAL_RETRY_SECONDS = 0.01
PG_CONNECT_TIMEOUT_SECONDS = 5
PG_RECYCLE_SECONDS = 1800  # below the idle timeout of common firewalls
GRACE_SECONDS = 2.0  # between the server's own statement timeout and the client's


def make_engine(
    url: str,
    *,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    foreign_keys: bool = True,
    statement_timeout_seconds: float = 0,
) -> Engine:
    """Create an engine, without connecting.

    ``busy_timeout_seconds`` and ``foreign_keys`` apply to SQLite. ``statement_timeout_seconds`` applies to PostgreSQL:
    a longer statement, or one without a response, breaks its connection. 0: no limit, for migrations and backups.
    """
    if is_sqlite(url):
        return _sqlite_engine(url, busy_timeout_seconds, foreign_keys=foreign_keys)
    return _postgresql_engine(url, statement_timeout_seconds)


def is_sqlite(url: str) -> bool:
    """Whether the URL is that of a SQLite database."""
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for a server or an in-memory database."""
    database = make_url(url).database
    return Path(database) if is_sqlite(url) and database not in (None, "", ":memory:") else None


# --- SQLite -----------------------------------------------------------------------------------------


class _HintCompiler(SQLiteCompiler):
    """Compiler that writes the hints of ``Select.with_hint``, which SQLAlchemy leaves out for SQLite."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:  # noqa: ARG002
        """Return the text after the table's name, e.g. ``INDEXED BY ix_jobs_figures``."""
        return text


def _sqlite_engine(url: str, busy_timeout_seconds: float, *, foreign_keys: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False},
    )
    engine.dialect.statement_compiler = _HintCompiler

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions
        _enable_wal(connection, busy_timeout_seconds)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("rw", True)
        # A write in a read-only transaction is a bug; PostgreSQL rejects it, so SQLite must too.
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _enable_wal(connection: sqlite3.Connection, timeout_seconds: float) -> None:
    """Set the journal mode to WAL, which is persistent. SQLite's busy timeout does not cover this statement."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_WAL_RETRY_SECONDS)
        else:
            return


# --- PostgreSQL -------------------------------------------------------------------------------------


def _postgresql_engine(url: str, statement_timeout_seconds: float) -> Engine:
    query = make_url(url).query
    connect_args: dict[str, Any] = {} if "connect_timeout" in query else {"connect_timeout": PG_CONNECT_TIMEOUT_SECONDS}
    if statement_timeout_seconds:
        connect_args["options"] = timeout_options(statement_timeout_seconds, query.get("options", ""))
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_recycle=PG_RECYCLE_SECONDS,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        connect_args=connect_args,
    )
    if statement_timeout_seconds:

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TimeoutConnection:
            connection = TimeoutConnection.connect(*args, **kwargs)
            connection.response_timeout_seconds = statement_timeout_seconds + GRACE_SECONDS
            return connection

    return engine


def timeout_options(statement_timeout_seconds: float, user_options: str | tuple[str, ...]) -> str:
    """Build the ``options`` of a PostgreSQL connection; ``user_options`` come last and take precedence.

    An idle transaction is ended after the same time: its process may be stopped while others wait for its locks.
    """
    milliseconds = round(statement_timeout_seconds * 1000)
    limits = [f"-c {name}={milliseconds}" for name in ("statement_timeout", "idle_in_transaction_session_timeout")]
    user = [user_options] if isinstance(user_options, str) else user_options
    return " ".join([*limits, *user]).strip()


class TimeoutConnection(psycopg.Connection[Any]):
    """PostgreSQL connection with a response timeout: raises ``psycopg.OperationalError``, then is closed."""

    response_timeout_seconds = math.inf

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Run one exchange with the server, within ``response_timeout_seconds``."""
        limit = self.response_timeout_seconds if timeout is None else min(timeout, self.response_timeout_seconds)
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.close()  # a late response would be taken for that to the next statement
            raise
