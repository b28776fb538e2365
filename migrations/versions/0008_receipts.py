"""Receipts of exported files

Only adds, so processes of the version before can still run. Artifacts of earlier jobs have no receipt.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("receipt", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("artifacts", "receipt")
