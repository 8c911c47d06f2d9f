"""Turns of several lines; the owner and the host of what waits for others' machines, and whether it is at work; a
way to count what has not ended."""

from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.drop_table("turns")  # whose turn was when means little, and nothing after a restart
    op.create_table(
        "turns",
        sa.Column("line", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("served_at", sa.Float, nullable=False),
    )
    op.add_column("jobs", sa.Column("source_host", sa.String(255)))
    op.add_column("deliveries", sa.Column("owner", sa.String(64)))
    op.add_column("deliveries", sa.Column("host", sa.String(255)))
    op.add_column("deliveries", sa.Column("held_until", sa.Float))
    op.create_index("jobs_unfetched", "jobs", ["state", "source_key"])
    op.create_index("jobs_backlog", "jobs", ["state", "dialect", "created_at"])
    db = op.get_bind()
    jobs = sa.table("jobs", *map(sa.column, ("id", "owner", "source_url", "source_key", "source_host")))
    deliveries = sa.table("deliveries", *map(sa.column, ("id", "job_id", "url", "owner", "host")))
    owner = sa.select(jobs.c.owner).where(jobs.c.id == deliveries.c.job_id).scalar_subquery()
    db.execute(sa.update(deliveries).values(owner=owner))
    for row in db.execute(sa.select(deliveries.c.id, deliveries.c.url)).all():
        db.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(host=_host(row.url)))
    waiting = sa.select(jobs.c.id, jobs.c.source_url).where(jobs.c.source_url.is_not(None), jobs.c.source_key.is_(None))
    for row in db.execute(waiting).all():
        db.execute(sa.update(jobs).where(jobs.c.id == row.id).values(source_host=_host(row.source_url)))


def downgrade() -> None:
    op.drop_index("jobs_backlog", "jobs")
    op.drop_index("jobs_unfetched", "jobs")
    with op.batch_alter_table("deliveries") as deliveries:
        for column in ("held_until", "host", "owner"):
            deliveries.drop_column(column)
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("source_host")
    op.drop_table("turns")
    op.create_table(
        "turns",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("served_at", sa.Float, nullable=False),
    )


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.hostname or ''}:{port}"[-255:]
    except ValueError:
        return ""
