"""Licenses of datasets

Only adds, so processes of the version before can still run.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("license", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "license")
