"""The model that a model was made from

Only adds, so processes of the version before can still run.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("parent_id", sa.String(length=40), nullable=True))
    op.create_index("ix_models_parent_id", "models", ["parent_id"])


def downgrade() -> None:
    op.drop_index("ix_models_parent_id", "models")
    op.drop_column("models", "parent_id")
