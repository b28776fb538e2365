"""Engines with the settings that this store needs. Make them after a fork, never before.

The lines for SQLite were measured: every unit of work that writes begins with ``BEGIN IMMEDIATE``, so
it never has to upgrade a snapshot, which is what "database is locked" comes from.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url

BUSY_SECONDS = 5  # how long a SQLite writer waits for another one
_LOCKED_SECONDS = 0.01
PG_CONNECT_SECONDS = 5
PG_RECYCLE_SECONDS = 1800  # before a firewall on the way forgets the connection


def make_engine(url: str, *, busy_seconds: float = BUSY_SECONDS, foreign_keys: bool = True) -> Engine:
    """Make an engine; it does not connect yet. The options are SQLite's."""
    if is_sqlite(url):
        return _sqlite_engine(url, busy_seconds=busy_seconds, foreign_keys=foreign_keys)
    arguments = {} if "connect_timeout" in make_url(url).query else {"connect_timeout": PG_CONNECT_SECONDS}
    return create_engine(url, pool_pre_ping=True, pool_recycle=PG_RECYCLE_SECONDS, connect_args=arguments)


def is_sqlite(url: str) -> bool:
    """Whether this URL is of a SQLite database."""
    return make_url(url).get_backend_name() == "sqlite"


def sqlite_file(url: str) -> Path | None:
    """The file behind a SQLite URL, or None for a server or a database in memory."""
    database = make_url(url).database
    return Path(database) if is_sqlite(url) and database not in (None, "", ":memory:") else None


def _sqlite_engine(url: str, *, busy_seconds: float, foreign_keys: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=0,
        pool_timeout=10,
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
