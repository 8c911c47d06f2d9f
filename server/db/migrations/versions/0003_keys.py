"""API keys with their limits, whose turn it was when, and ways to a key's unended jobs and the latest ended ones."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
        sa.Column("rate", sa.Integer),
        sa.Column("daily", sa.Integer),
        sa.Column("concurrent", sa.Integer),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("rate_until", sa.Float, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("day_jobs", sa.Integer, nullable=False),
    )
    op.create_index("keys_hash", "keys", ["hash"], unique=True)
    op.create_index("jobs_unended", "jobs", ["owner", "state"])
    op.create_index("jobs_ended", "jobs", ["finished_at"])
    op.create_table(
        "turns",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("served_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("turns")
    op.drop_index("jobs_ended", "jobs")
    op.drop_index("jobs_unended", "jobs")
    op.drop_table("keys")
