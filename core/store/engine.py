"""Engines with the settings that this store needs. Make them after a fork, never before.

The lines for SQLite were measured: every unit of work that writes begins with ``BEGIN IMMEDIATE``, so
it never has to upgrade a snapshot, which is what "database is locked" comes from.
"""

from __future__ import annotations

import math
import sqlite3
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Connection, Engine, create_engine, event, make_url

BUSY_SECONDS = 5  # how long a SQLite writer waits for another one
_LOCKED_SECONDS = 0.01
POOL_SECONDS = 10  # how long a unit of work waits for a connection
PG_CONNECT_SECONDS = 5
PG_RECYCLE_SECONDS = 1800  # before a firewall on the way forgets the connection


def make_engine(
    url: str,
    *,
    busy_seconds: float = BUSY_SECONDS,
    foreign_keys: bool = True,
    statement_seconds: float = 0,
) -> Engine:
    """Make an engine; it does not connect yet.

    ``busy_seconds`` and ``foreign_keys`` are SQLite's. ``statement_seconds`` is PostgreSQL's: what takes longer, or is
    not answered, breaks its connection (:mod:`core.store.engine`); 0: no limit, as a migration or a backup needs.
    """
    if is_sqlite(url):
        return _sqlite_engine(url, busy_seconds=busy_seconds, foreign_keys=foreign_keys)
    return _postgresql_engine(url, statement_seconds)


def is_sqlite(url: str) -> bool:
    """Whether this URL is of a SQLite database."""
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_file(url: str) -> Path | None:
    """The file behind a SQLite URL, or None for a server or a database in memory."""
    database = make_url(url).database
    return Path(database) if is_sqlite(url) and database not in (None, "", ":memory:") else None


def _postgresql_engine(url: str, statement_seconds: float) -> Engine:
    named = make_url(url).query
    arguments: dict[str, Any] = {} if "connect_timeout" in named else {"connect_timeout": PG_CONNECT_SECONDS}
    if statement_seconds:
        arguments["options"] = limits(statement_seconds, named.get("options", ""))
    engine = create_engine(
        url, pool_pre_ping=True, pool_recycle=PG_RECYCLE_SECONDS, pool_timeout=POOL_SECONDS, connect_args=arguments
    )
    if statement_seconds:

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, where: tuple[Any, ...], how: dict[str, Any]) -> TimeoutConnection:
            connection = TimeoutConnection.connect(*where, **how)
            connection.answer_seconds = statement_seconds + GRACE_SECONDS
            return connection

    return engine


def _sqlite_engine(url: str, *, busy_seconds: float, foreign_keys: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        connect_args={"timeout": busy_seconds, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        _write_ahead(connection, busy_seconds)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("rw", True)
        # A write in a unit of work that only reads is a bug; PostgreSQL refuses it, so SQLite does too.
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Set the journal mode, which a file keeps. For this alone SQLite does not wait while another one does the same."""
    ends = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= ends:
                raise
            time.sleep(_LOCKED_SECONDS)
        else:
            return


GRACE_SECONDS = 2.0  # for the server, which breaks off by itself if it can


class TimeoutConnection(psycopg.Connection[Any]):
    """Gives up an answer that does not come: raises ``psycopg.OperationalError`` and is closed then."""

    answer_seconds = math.inf  # how long any answer may take

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Run one exchange with the server to its end, within ``answer_seconds``."""
        limit = self.answer_seconds if timeout is None else min(timeout, self.answer_seconds)
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.close()  # its answer may still come, and would be taken for that to the next question
            raise


def limits(statement_seconds: float, options: str | tuple[str, ...]) -> str:
    """What to tell the server at the start of a connection; ``options`` are the user's own, which come last and win.

    A transaction that does nothing for as long is ended, too: its process was stopped, and others wait for its locks.
    """
    limit = round(statement_seconds * 1000)  # ms
    ours = [f"-c {name}={limit}" for name in ("statement_timeout", "idle_in_transaction_session_timeout")]
    own = [options] if isinstance(options, str) else options
    return " ".join([*ours, *own]).strip()
