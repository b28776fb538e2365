"""How Alembic reaches the database: over the connection that it is given, else that of the settings."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection

from core.settings import load_settings
from core.store.base import CleanText, UtcDateTime
from core.store.schema import migration_connection
from core.store.tables import Base


def render_type(kind: str, value: Any, _autogenerate: Any) -> str | bool:
    """Write our own column types as what they are in the database, so that old migrations never import new code."""
    if kind == "type" and isinstance(value, CleanText | UtcDateTime):
        return f"sa.{value.impl!r}"
    return False


def run(connection: Connection) -> None:
    """Run the steps that were asked for."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by building it anew
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=True,
        render_item=render_type,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
elif context.is_offline_mode():
    raise SystemExit("SQL scripts are not offered; run `potstill-server migrate` against the database.")
else:
    with migration_connection(load_settings().resolved_database_url()) as own:
        run(own)
