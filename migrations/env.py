"""Alembic environment: uses the given connection, or else the database of the settings."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import JSON, Column, Connection

from core.settings import load_settings
from core.store.base import CleanText, UtcDateTime
from core.store.schema import migration_connection
from core.store.tables import Base


def compare_default(
    _context: object,
    _inspected_column: object,
    metadata_column: Column[object],
    inspected_default: str | None,
    _metadata_default: object,
    rendered_default: str | None,
) -> bool | None:
    """Return whether a JSON default differs; None lets Alembic compare. PostgreSQL has no `=` for the type json."""
    if not isinstance(metadata_column.type, JSON) or None in {inspected_default, rendered_default}:
        return None
    return str(inspected_default).partition("::")[0].strip("'") != str(rendered_default).strip("'")


def include_object(item: Any, _name: str | None, kind: str, *_rest: object) -> bool:
    """Return whether to compare an object. Alembic cannot compare generated columns; their SQL is in a migration."""
    if kind != "column":
        return True
    default = item.server_default
    return item.computed is None and (default is None or default.has_argument)


def render_type(kind: str, value: Any, _autogenerate: Any) -> str | bool:
    """Render custom column types as plain SQLAlchemy types, so that migrations never import application code."""
    if kind == "type" and isinstance(value, CleanText | UtcDateTime):
        return f"sa.{value.impl!r}"
    return False


def run(connection: Connection) -> None:
    """Run the requested migrations."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by rebuilding it
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=compare_default,
        include_object=include_object,
        render_item=render_type,
    )
    with context.begin_transaction():
        context.run_migrations()


connection: Connection | None = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
elif context.is_offline_mode():
    raise SystemExit("Offline SQL scripts are not supported; run `potstill-server migrate` against the database.")
else:
    with migration_connection(load_settings().resolved_database_url()) as settings_connection:
        run(settings_connection)
