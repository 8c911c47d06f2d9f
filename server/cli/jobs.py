"""`jobs`: the jobs of the server on a data folder."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from server.cli.base import AsJson, DataDir, fail, plain_errors, show, until_the_end
from server.job.job import Job, State

app = typer.Typer(no_args_is_help=True, help="List, show and cancel the jobs of the server on this data folder.")


@app.command("list")
def jobs_list(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1, max=10_000)] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs of all callers."""
    with plain_errors():
        found, _ = _open_jobs(data_dir).list(states=[state] if state else [], limit=limit)
    if as_json:
        print(json.dumps([asdict(job) for job in found]))
        return
    table = Table(Column("id", no_wrap=True), "api", "state", "progress", "wanted", "created", "error", box=None)
    for job in found:
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.created_at))
        error = escape(job.error_message or "")
        table.add_row(job.id, job.dialect, job.state.value, f"{job.progress:.0%}", _wanted(job), created, error)
    show(table)


@app.command("show")
def jobs_show(job_id: str, data_dir: DataDir = None) -> None:
    """Print all facts about one job as JSON, with its pending deliveries to the caller's addresses."""
    from server.db.deliveries import Deliveries
    from server.db.jobs import Jobs

    with plain_errors():
        engine, lease_s = _open_engine(data_dir)
        job = Jobs(engine, lease_s=lease_s).get(job_id)
        facts = asdict(job) | {"deliveries": [asdict(each) for each in Deliveries(engine).of_job(job_id)]}
        print(json.dumps(facts, indent=2))


@app.command("undelivered")
def jobs_undelivered(
    limit: Annotated[int, typer.Option(help="At most so many, the latest first.", min=1, max=10_000)] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the webhooks and uploads of results that failed after all retries."""
    from server.db.deliveries import Deliveries

    with plain_errors():
        found = Deliveries(_open_engine(data_dir)[0]).dead(limit)
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
        return
    for each in found:
        tried = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.due_at))
        tries = f"{each.attempts} {'try' if each.attempts == 1 else 'tries'}, the last {tried}"
        # Not a table: addresses are long, and must not be truncated.
        print(f"{each.job_id}  {each.kind}  {tries}\n  {each.last_error or ''}\n  {each.url}")


@app.command("redeliver")
def jobs_redeliver(job_id: str, data_dir: DataDir = None) -> None:
    """Send a job's failed webhooks and uploads again, with as many retries as before."""
    from server.db.deliveries import Deliveries
    from server.db.jobs import Jobs

    with plain_errors():
        engine, lease_s = _open_engine(data_dir)
        Jobs(engine, lease_s=lease_s).get(job_id)
        number = Deliveries(engine).revive(job_id)
        if not number:
            fail(f"job {job_id} has no failed deliveries")
        print(f"{number} to be sent again")


@app.command("cancel")
def jobs_cancel(job_id: str, data_dir: DataDir = None) -> None:
    """Cancel a job: at once if it is queued, at its next tile if it is running."""
    with plain_errors():
        job = _open_jobs(data_dir).cancel(job_id)
        if job.state.final and job.state is not State.CANCELLED:
            fail(f"job {job_id} has already ended: it {job.state.value}")
        print("cancelled" if job.state is State.CANCELLED else "cancelling")


def _wanted(job: Job) -> str:
    params = job.params
    if params.size:
        return f"{params.size[0]}x{params.size[1]} {params.format}"
    if params.megapixels:
        return f"{params.megapixels:g} MP {params.format}"
    return f"{params.target or f'×{params.scale:g}'} {params.format}"


def _open_jobs(data_dir: Path | None) -> Any:
    from server.db.jobs import Jobs

    engine, lease_s = _open_engine(data_dir)
    return Jobs(engine, lease_s=lease_s)


def _open_engine(data_dir: Path | None) -> tuple[Any, float]:
    """The database of the server on this data folder, and its lease."""
    from server.config import load_config
    from server.db.database import is_current, migrate, open_database

    config = load_config(data_dir=data_dir)
    if config.database_url is None and not (config.data_dir / "jobs.sqlite3").exists():
        fail(f"there are no jobs in {config.data_dir}: no server has run there")
    if not is_current(config.database):
        migrate(config.database)
    return until_the_end(open_database(config.database)), config.lease_s
