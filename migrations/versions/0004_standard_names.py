"""Standard names of tables and columns

Renames only, so processes of the version before cannot work on this schema: stop them before the migration
(`CONTRACT_STEPS` in tests/core/store/test_upgrades.py).

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = (  # table, old name, new name
    ("projects", "served_at", "last_claimed_at"),
    ("datasets", "losses", "worker_losses"),
    ("models", "losses", "worker_losses"),
    ("models", "facts", "info"),
    ("jobs", "losses", "worker_losses"),
    ("checkpoints", "kept", "retained"),
    ("teachers", "recipe", "fingerprint"),
    ("idempotency", "patience_ends_at", "in_flight_expires_at"),
)


def upgrade() -> None:
    for table, old, new in _COLUMNS:
        op.alter_column(table, old, new_column_name=new)
    _move_rollups("metric_spans", "metric_rollups")


def downgrade() -> None:
    _move_rollups("metric_rollups", "metric_spans")
    for table, old, new in reversed(_COLUMNS):
        op.alter_column(table, new, new_column_name=old)


def _move_rollups(old: str, new: str) -> None:
    """Copy the rows into a new table, because SQLite cannot rename constraints; there is one row per 256 points."""
    op.create_table(
        new,
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("first_step", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("num_points", sa.BigInteger(), nullable=False),
        sa.Column("low_step", sa.BigInteger(), nullable=False),
        sa.Column("low", sa.Float(precision=53), nullable=True),
        sa.Column("high_step", sa.BigInteger(), nullable=False),
        sa.Column("high", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f(f"fk_{new}_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f(f"fk_{new}_project_id")),
        sa.PrimaryKeyConstraint("job_id", "name", "first_step", name=op.f(f"pk_{new}")),
    )
    columns = "job_id, name, first_step, last_step, project_id, num_points, low_step, low, high_step, high"
    op.execute(sa.text(f"INSERT INTO {new} ({columns}) SELECT {columns} FROM {old}"))
    op.drop_table(old)
