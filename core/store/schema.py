"""Bringing a database to the schema that this version of the code needs (Alembic)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

import core
from core.store.engine import is_sqlite, make_engine, sqlite_file

# A package of its own beside `core`, in a checkout and where it is installed.
MIGRATIONS = Path(core.__file__).resolve().parent.parent / "migrations"
WAIT_SECONDS = 60  # for another process that is migrating the same database
ADVISORY_LOCK = 0x706F7473  # any number that nobody else uses in the same PostgreSQL database: "pots"


def migrate(url: str, *, revision: str = "head") -> None:
    """Bring the database up to ``revision``. Two processes may do this at once: one waits for the other.

    A newer version's schema is left as it is: this version works on it, too (docs/operations.md).
    """
    with migration_connection(url) as connection:
        newer = _is_newer(_revisions(connection))
        if connection.dialect.name == "postgresql":
            connection.rollback()  # Alembic begins and commits a transaction for each migration itself
        if not newer:
            command.upgrade(_config(connection), revision)


def downgrade(url: str, *, revision: str) -> None:
    """Take the database back to ``revision`` (``base``: nothing left)."""
    with migration_connection(url) as connection:
        command.downgrade(_config(connection), revision)


def is_current(engine: Engine) -> bool:
    """Whether the database has a schema that this code works on: its own, or that of a newer version.

    Migrations only add, so that processes of two versions may run at once while one replaces the other.
    """
    with engine.connect() as connection:
        found = _revisions(connection)
    return found == _heads() or _is_newer(found)


def _revisions(connection: Connection) -> frozenset[str]:
    return frozenset(MigrationContext.configure(connection).get_current_heads())


def _is_newer(found: frozenset[str]) -> bool:
    """Whether these are revisions that this version has never heard of."""
    return bool(found) and found.isdisjoint(_known())


@cache
def _heads() -> frozenset[str]:
    return frozenset(ScriptDirectory.from_config(_config()).get_heads())


@cache
def _known() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def migration_connection(url: str) -> Iterator[Connection]:
    """A connection that may change the schema while nobody else does.

    PostgreSQL: under an advisory lock of the session. SQLite: inside the one writer's transaction, so a
    migration is there whole or not at all; foreign keys are off, because a table that is rebuilt is
    dropped on the way, and are checked before the commit.
    """
    if is_sqlite(url):
        file = sqlite_file(url)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        engine = make_engine(url, busy_seconds=WAIT_SECONDS, foreign_keys=False)
        with _disposed(engine), engine.begin() as connection:
            yield connection
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise RuntimeError(f"the migration broke {len(broken)} foreign keys, first {tuple(broken[0])}")
        return
    engine = make_engine(url)
    with _disposed(engine), engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()
        yield connection
        connection.commit()
        # Closing the session releases the lock, also after an exception.


@contextmanager
def _disposed(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()
