"""Counters for Prometheus; request and trace of a job; subject of a token in the audit log

Only adds, so processes of the version before can still run.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("id", sa.String(length=400), nullable=False),
        sa.Column("series", sa.String(length=400), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counters")),
    )
    op.add_column("jobs", sa.Column("request_id", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=64), nullable=True))
    op.add_column("audit_log", sa.Column("subject", sa.String(length=255), nullable=True))


def downgrade() -> None:
    op.drop_column("audit_log", "subject")
    op.drop_column("jobs", "traceparent")
    op.drop_column("jobs", "request_id")
    op.drop_table("counters")
