"""Warnings; names that are looked up; counts of jobs; training state that expires; images of datasets

Only adds, so processes of the version before can still run. They do not update the counts of jobs, which the scheduler
corrects (`core.store.job_counts`).

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LISTS = (("jobs", "warnings"), ("datasets", "warnings"))  # table, column
_NAMED = ("datasets", "models", "jobs")
_DATASET_COLUMNS = (
    ("value_range", sa.JSON(none_as_null=True)),
    ("cropped_fraction", sa.Float(precision=53)),
    ("progress", sa.JSON(none_as_null=True)),
)


def upgrade() -> None:
    for table, name in _LISTS:
        op.add_column(table, sa.Column(name, sa.JSON(none_as_null=True), nullable=False, server_default="[]"))
    for table in _NAMED:
        op.create_index(f"ix_{table}_name", table, ["project_id", "name", "id"])
    op.create_index(
        "ix_checkpoints_resumable",
        "checkpoints",
        ["job_id"],
        postgresql_where=sa.text("resumable"),
        sqlite_where=sa.text("resumable = 1"),
    )
    _create_job_counts()
    for name, column_type in _DATASET_COLUMNS:
        op.add_column("datasets", sa.Column(name, column_type, nullable=True))


def downgrade() -> None:
    for name, _ in reversed(_DATASET_COLUMNS):
        op.drop_column("datasets", name)
    op.drop_index("ix_jobs_counts", "jobs")
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.drop_table("job_counts")
    op.drop_index("ix_checkpoints_resumable", "checkpoints")
    for table in reversed(_NAMED):
        op.drop_index(f"ix_{table}_name", table)
    for table, name in reversed(_LISTS):
        op.drop_column(table, name)


def _create_job_counts() -> None:
    op.create_table(
        "job_counts",
        sa.Column("id", sa.String(length=120), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=40), nullable=False),
        sa.Column("accelerator", sa.String(length=40), nullable=False),
        sa.Column("num_jobs", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_job_counts_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_counts")),
    )
    op.drop_index("ix_jobs_status", "jobs")
    op.create_index("ix_jobs_counts", "jobs", ["project_id", "status", "accelerator"])
    op.execute(
        sa.text(
            "INSERT INTO job_counts (id, project_id, status, accelerator, num_jobs) "
            "SELECT project_id || '-' || status || '-' || accelerator, project_id, status, accelerator, COUNT(*) "
            "FROM jobs GROUP BY project_id, status, accelerator"
        )
    )
