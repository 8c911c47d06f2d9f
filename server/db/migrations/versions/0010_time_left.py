"""How long a job will still take, and when its worker said so."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("left_s", sa.Float))
    op.add_column("jobs", sa.Column("left_at", sa.Float))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("left_at")
        jobs.drop_column("left_s")
