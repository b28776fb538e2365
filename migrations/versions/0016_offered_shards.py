"""Missing shards of offered views, for which idle workers may still come

Only adds, so processes of the version before can still run. Offers last as long as an attempt: an offer of the version
before is closed, and the attempt offers again.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offered_views", sa.Column("num_shards", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("offered_views", "num_shards")
