"""Until when an upload's ticket is held by a caller whose bytes are being stored."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("uploads", sa.Column("held_until", sa.Float))


def downgrade() -> None:
    with op.batch_alter_table("uploads") as uploads:
        uploads.drop_column("held_until")
