"""Until when a job may take, and what a dialect keeps beside an upload."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("cancel_at", sa.Float))
    op.add_column("uploads", sa.Column("about", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    with op.batch_alter_table("uploads") as uploads:
        uploads.drop_column("about")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("cancel_at")
