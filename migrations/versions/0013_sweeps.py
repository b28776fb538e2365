"""Sweeps, and the jobs that belong to one

Only adds, so processes of the version before can still run. They do not record the end of a sweep: during an upgrade a
sweep whose last job ends on such a process has no `sweep.finished`.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_IS_SET = sa.text("sweep_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("grid", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("points", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("fields", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("num_jobs", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_sweeps_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index("ix_sweeps_list", "sweeps", ["project_id", "id"])
    op.add_column("jobs", sa.Column("sweep_id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("sweep_point", sa.JSON(none_as_null=True), nullable=True))
    op.create_index("ix_jobs_sweep", "jobs", ["sweep_id"], postgresql_where=_IS_SET, sqlite_where=_IS_SET)


def downgrade() -> None:
    op.drop_index("ix_jobs_sweep", "jobs")
    op.drop_column("jobs", "sweep_point")
    op.drop_column("jobs", "sweep_id")
    op.drop_table("sweeps")
