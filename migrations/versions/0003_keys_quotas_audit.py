"""Key rotation, quotas, stored bytes of projects, and the audit log

Only adds, so processes of the version before can still run. The scheduler's recount covers the files that they store.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_LIMITS = ("max_jobs", "max_stored_bytes", "max_upload_bytes")


def upgrade() -> None:
    for name in _LIMITS:
        op.add_column("projects", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("api_keys", sa.Column("replaces", sa.String(length=40), nullable=True))
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("object_id", sa.String(length=40), nullable=True),
        sa.Column("outcome", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("client_address", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_audit_log_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_list", "audit_log", ["project_id", "id"], unique=False)
    op.create_index("ix_audit_log_key", "audit_log", ["project_id", "key_id", "id"], unique=False)
    op.create_index("ix_audit_log_action", "audit_log", ["project_id", "action", "id"], unique=False)
    op.create_index("ix_audit_log_object", "audit_log", ["project_id", "object_id", "id"], unique=False)
    op.create_index("ix_audit_log_created_at", "audit_log", ["created_at"], unique=False)

    op.create_index("ix_artifacts_project", "artifacts", ["project_id", "size_bytes"], unique=False)
    op.create_table(
        "project_usage",
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_usage_project_id")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_project_usage")),
    )
    op.execute(sa.text(_COUNT))


def downgrade() -> None:
    op.drop_table("project_usage")
    op.drop_index("ix_artifacts_project", "artifacts")
    op.drop_table("audit_log")
    op.drop_column("api_keys", "replaces")
    for name in reversed(_LIMITS):
        op.drop_column("projects", name)


# A student shares its file with its job's artifact; it counts for the model only once the job is deleted.
_COUNT = """
INSERT INTO project_usage (project_id, stored_bytes)
SELECT p.id,
    COALESCE((SELECT SUM(a.size_bytes) FROM artifacts a WHERE a.project_id = p.id), 0)
    + COALESCE((SELECT SUM(d.size_bytes) FROM datasets d WHERE d.project_id = p.id), 0)
    + COALESCE((SELECT SUM(m.size_bytes) FROM models m WHERE m.project_id = p.id
        AND (m.job_id IS NULL OR NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = m.job_id))), 0)
FROM projects p
"""
