"""Schema migrations of the database (Alembic)."""

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
from core.store.engine import is_sqlite, make_engine, sqlite_path

# A sibling package of `core`, both in a checkout and in an installation.
MIGRATIONS = Path(core.__file__).resolve().parent.parent / "migrations"
LOCK_TIMEOUT_SECONDS = 60  # while another process migrates the same SQLite database
ADVISORY_LOCK = 0x706F7473  # "pots"; unique among the advisory locks of the PostgreSQL database


def migrate(url: str, *, revision: str = "head") -> None:
    """Upgrade the database to ``revision``. Concurrent calls are serialized.

    The schema of a newer version is left unchanged: this version works with it (docs/operations.md).
    """
    with migration_connection(url) as connection:
        newer = _is_newer(_revisions(connection))
        if connection.dialect.name == "postgresql":
            connection.rollback()  # Alembic itself begins and commits a transaction per migration
        if not newer:
            command.upgrade(_config(connection), revision)


def downgrade(url: str, *, revision: str) -> None:
    """Downgrade the database to ``revision`` (``base``: no tables)."""
    with migration_connection(url) as connection:
        command.downgrade(_config(connection), revision)


def is_current(engine: Engine) -> bool:
    """Whether the schema of the database is that of this version, or of a newer one.

    Migrations only add, so processes of two consecutive versions may run at once during an upgrade.
    """
    with engine.connect() as connection:
        revisions = _revisions(connection)
    return revisions == _head_revisions() or _is_newer(revisions)


def _revisions(connection: Connection) -> frozenset[str]:
    return frozenset(MigrationContext.configure(connection).get_current_heads())


def _is_newer(revisions: frozenset[str]) -> bool:
    """Whether this version does not know these revisions."""
    return bool(revisions) and revisions.isdisjoint(_all_revisions())


@cache
def _head_revisions() -> frozenset[str]:
    return frozenset(ScriptDirectory.from_config(_config()).get_heads())


@cache
def _all_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def migration_connection(url: str) -> Iterator[Connection]:
    """Open a connection with exclusive access to the schema.

    PostgreSQL: under an advisory lock of the session. SQLite: in one write transaction, so all migrations are
    applied or none; foreign keys are off, because rebuilding a table drops it, and are checked before the commit.
    """
    if is_sqlite(url):
        path = sqlite_path(url)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        engine = make_engine(url, busy_timeout_seconds=LOCK_TIMEOUT_SECONDS, foreign_keys=False)
        with _disposing(engine), engine.begin() as connection:
            yield connection
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise RuntimeError(f"the migration broke {len(broken)} foreign keys, first {tuple(broken[0])}")
        return
    engine = make_engine(url)
    with _disposing(engine), engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()
        yield connection
        connection.commit()
        # Closing the connection releases the lock, also after an exception.


@contextmanager
def _disposing(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()
