"""Why a worker can't work, in words."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("workers", sa.Column("problem", sa.Text()))


def downgrade() -> None:
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("problem")
