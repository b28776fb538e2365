"""Partial indexes, and min/max rollups of metric series

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SPAN = 256  # points


def upgrade() -> None:
    for name, status, columns in (
        ("ix_jobs_queued", "queued", ["accelerator", "project_id", "priority", "created_at", "id"]),
        ("ix_jobs_running", "running", ["project_id", "id"]),
    ):
        where = sa.text(f"status = '{status}'")
        op.create_index(name, "jobs", columns, unique=False, postgresql_where=where, sqlite_where=where)
    op.create_index("ix_jobs_list_by_status", "jobs", ["project_id", "status", "id"], unique=False)
    op.create_index("ix_jobs_status", "jobs", ["status"], unique=False)
    op.drop_index("ix_jobs_claim", "jobs")
    op.drop_index("ix_jobs_lease", "jobs")

    op.add_column("projects", sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))

    for table in ("datasets", "models"):
        where = sa.text("upload_key IS NOT NULL")
        name = f"ix_{table}_upload_key"
        op.create_index(name, table, ["upload_key"], unique=False, postgresql_where=where, sqlite_where=where)

    op.create_table(
        "metric_spans",
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
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_metric_spans_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_metric_spans_project_id")),
        sa.PrimaryKeyConstraint("job_id", "name", "first_step", name=op.f("pk_metric_spans")),
    )
    op.execute(sa.text(_SUM_UP))


def downgrade() -> None:
    op.drop_table("metric_spans")
    op.drop_index("ix_models_upload_key", "models")
    op.drop_index("ix_datasets_upload_key", "datasets")
    op.drop_column("projects", "served_at")
    op.create_index("ix_jobs_lease", "jobs", ["status", "lease_expires_at"], unique=False)
    op.create_index("ix_jobs_claim", "jobs", ["status", "priority", "created_at"], unique=False)
    op.drop_index("ix_jobs_status", "jobs")
    op.drop_index("ix_jobs_list_by_status", "jobs")
    op.drop_index("ix_jobs_running", "jobs")
    op.drop_index("ix_jobs_queued", "jobs")


# One rollup per 256 consecutive points of a series. NULL ranks highest; of equal values, the first step.
_SUM_UP = f"""
INSERT INTO metric_spans
    (job_id, name, first_step, last_step, project_id, num_points, low_step, low, high_step, high)
SELECT job_id, name, MIN(step), MAX(step), MIN(project_id), COUNT(*),
    MIN(CASE WHEN from_low = 1 THEN step END), MIN(CASE WHEN from_low = 1 THEN value END),
    MIN(CASE WHEN from_high = 1 THEN step END), MIN(CASE WHEN from_high = 1 THEN value END)
FROM (
    SELECT job_id, name, span, step, project_id, value,
        ROW_NUMBER() OVER (PARTITION BY job_id, name, span
            ORDER BY CASE WHEN value IS NULL THEN 1 ELSE 0 END, value, step) AS from_low,
        ROW_NUMBER() OVER (PARTITION BY job_id, name, span
            ORDER BY CASE WHEN value IS NULL THEN 0 ELSE 1 END, value DESC, step) AS from_high
    FROM (
        SELECT job_id, name, step, project_id, value,
            (ROW_NUMBER() OVER (PARTITION BY job_id, name ORDER BY step) - 1) / {_SPAN} AS span
        FROM metrics
    ) AS numbered
) AS ranked
GROUP BY job_id, name, span
"""
