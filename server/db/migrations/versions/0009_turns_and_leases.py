"""Whose turn it is, found owner by owner; a lease for each worker instead of each job; what all machines share."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.drop_index("jobs_waiting", "jobs")
    op.drop_index("jobs_unfetched", "jobs")
    ready, unfetched = "state = 'queued' AND source_key IS NOT NULL", "state = 'queued' AND source_key IS NULL"
    _partial("jobs_turn", ["owner", sa.text("priority DESC"), "created_at", "id"], ready)
    _partial("jobs_unfetched", ["state", "source_key"], unfetched)
    _partial("jobs_running", ["worker", "owner"], "state = 'running'")
    _partial("jobs_deadline", ["cancel_at"], "cancel_at IS NOT NULL AND finished_at IS NULL")
    op.create_table(
        "leases",
        sa.Column("worker", sa.String(128), primary_key=True),
        sa.Column("until", sa.Float, nullable=False),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "shared",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.execute("DELETE FROM workers")  # none runs now; each that starts writes its own row
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("beat_at")


def downgrade() -> None:
    op.execute("DELETE FROM workers")
    with op.batch_alter_table("workers") as workers:
        workers.add_column(sa.Column("beat_at", sa.Float, nullable=False))
    op.drop_table("shared")
    op.drop_table("leases")
    for name in ("jobs_turn", "jobs_unfetched", "jobs_running", "jobs_deadline"):
        op.drop_index(name, "jobs")
    # Without a time of its own, a running job counts as one whose worker has died, and is claimed again.
    op.execute("UPDATE jobs SET lease_until = 0 WHERE state = 'running'")
    op.create_index("jobs_waiting", "jobs", ["state", "priority", "created_at"])
    op.create_index("jobs_unfetched", "jobs", ["state", "source_key"])


def _partial(name: str, columns: Sequence[str | sa.TextClause], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
