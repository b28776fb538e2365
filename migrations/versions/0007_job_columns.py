"""Columns of jobs that their lists are filtered by and sorted by, computed by the database

Only adds. The columns are generated from `spec`, `result` and times, so rows of processes of the version before have
them too. PostgreSQL stores them and rewrites the table once; SQLite computes them, and stores them in the index.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TEXT = sa.String(length=400)
# Characters in the index, one of whose rows has at most 2,700 bytes on PostgreSQL; a name has at most 200.
_NAME, _NAMES = 100, 250
_NUMBER = sa.Float(precision=53)
_MAX_TEACHERS = 8
_FIGURES = ("parameters", "flops", "size_bytes", "latency_ms")
_INDEX = (
    "project_id", "id", "status", "name", "method", "dataset_id", "student", "teachers", "created_at",
    "top1", "gain", "seconds", *_FIGURES,
)  # fmt: skip


def upgrade() -> None:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    for name, (column_type, expression) in _columns(on_postgresql).items():
        computed = sa.Computed(expression, persisted=on_postgresql)
        op.add_column("jobs", sa.Column(name, column_type, computed, nullable=True))
    op.create_index("ix_jobs_by_method", "jobs", ["project_id", "method", "id"])
    op.create_index("ix_jobs_by_dataset", "jobs", ["project_id", "dataset_id", "id"])
    op.create_index("ix_jobs_figures", "jobs", list(_INDEX))


def downgrade() -> None:
    for name in ("figures", "by_dataset", "by_method"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    for name in reversed(_columns(on_postgresql=False)):
        op.drop_column("jobs", name)


def _columns(on_postgresql: bool) -> dict[str, tuple[sa.types.TypeEngine, str]]:
    value = _postgresql_value if on_postgresql else _sqlite_value
    number = _postgresql_number if on_postgresql else _sqlite_number
    teachers = " || ".join(
        f"coalesce({value('spec', 'teachers', index, 'architecture')} || '|', '')" for index in range(_MAX_TEACHERS)
    )
    seconds = (
        "EXTRACT(epoch FROM finished_at - started_at)::double precision"
        if on_postgresql
        else "(julianday(finished_at) - julianday(started_at)) * 86400.0"
    )
    return {
        "method": (_TEXT, f"substr({value('spec', 'method', 'name')}, 1, {_NAME})"),
        "student": (_TEXT, f"substr({value('spec', 'student', 'architecture')}, 1, {_NAME})"),
        "teachers": (_TEXT, f"substr('|' || {teachers}, 1, {_NAMES})"),
        "top1": (_NUMBER, number("result", "student", "top1")),
        "gain": (_NUMBER, number("result", "baseline", "gain")),
        "seconds": (_NUMBER, seconds),
        **{name: (_NUMBER, number("result", "student", name)) for name in _FIGURES},
    }


def _sqlite_value(column: str, *keys: str | int) -> str:
    return f"json_extract({column}, '{_sqlite_path(keys)}')"


def _sqlite_number(column: str, *keys: str | int) -> str:
    is_number = f"json_type({column}, '{_sqlite_path(keys)}') IN ('integer', 'real')"
    return f"CASE WHEN {is_number} THEN {_sqlite_value(column, *keys)} END"


def _sqlite_path(keys: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def _postgresql_value(column: str, *keys: str | int) -> str:
    *parents, last = (str(key) if isinstance(key, int) else f"'{key}'" for key in keys)
    return f"({column}{''.join(f' -> {key}' for key in parents)} ->> {last})"


def _postgresql_number(column: str, *keys: str | int) -> str:
    """A value of another type must not fail the cast, and with it the job that writes it."""
    document = f"({column}{''.join(f' -> {key!r}' for key in keys)})"
    value = _postgresql_value(column, *keys)
    return f"CASE WHEN json_typeof({document}) = 'number' THEN {value}::double precision END"
