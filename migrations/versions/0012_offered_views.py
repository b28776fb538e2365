"""Views of running jobs that idle workers may compute teacher outputs for

Only adds, so processes of the version before can still run.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "offered_views",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("accelerator", sa.String(length=40), nullable=False),
        sa.Column("cache_id", sa.String(length=40), nullable=False),
        sa.Column("views_key", sa.String(length=64), nullable=False),
        sa.Column("next_view", sa.BigInteger(), nullable=False),
        sa.Column("num_views", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_offered_views_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_offered_views_project_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_offered_views")),
    )


def downgrade() -> None:
    op.drop_table("offered_views")
