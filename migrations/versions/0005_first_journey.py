"""Warnings of jobs and datasets

Only adds, so processes of the version before can still run.

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


def upgrade() -> None:
    for table, name in _LISTS:
        op.add_column(table, sa.Column(name, sa.JSON(none_as_null=True), nullable=False, server_default="[]"))


def downgrade() -> None:
    for table, name in reversed(_LISTS):
        op.drop_column(table, name)
