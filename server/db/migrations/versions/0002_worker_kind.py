"""The kind of a worker's device, apart from the words that describe it: plans depend on it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("workers", sa.Column("kind", sa.String(16), nullable=False, server_default="cpu"))


def downgrade() -> None:
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("kind")
