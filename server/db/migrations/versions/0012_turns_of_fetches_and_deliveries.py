"""Whose turn it is for a fetch or a delivery, found owner by owner and host by host: since 0005 each has both."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_UNFETCHED = "state = 'queued' AND source_key IS NULL"
_PENDING = "state = 'pending'"


def upgrade() -> None:
    op.drop_index("jobs_unfetched", "jobs")
    by_priority = sa.text("priority DESC")
    _partial("jobs", "jobs_unfetched", ["owner", "source_host", by_priority, "created_at", "id"], _UNFETCHED)
    _partial("jobs", "jobs_fetched_now", ["owner", "source_host"], "state = 'queued' AND worker IS NOT NULL")
    _partial("deliveries", "deliveries_turn", ["owner", "host", "due_at", "id"], _PENDING)
    _partial("deliveries", "deliveries_held", ["owner", "host"], f"{_PENDING} AND held_until IS NOT NULL")


def downgrade() -> None:
    for name in ("deliveries_turn", "deliveries_held"):
        op.drop_index(name, "deliveries")
    for name in ("jobs_unfetched", "jobs_fetched_now"):
        op.drop_index(name, "jobs")
    _partial("jobs", "jobs_unfetched", ["state", "source_key"], _UNFETCHED)


def _partial(table: str, name: str, columns: Sequence[str | sa.TextClause], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
