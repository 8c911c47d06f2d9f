"""`keys`: the API keys, and the limits of each."""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from server.cli.base import AsJson, DataDir, plain_errors, show, stderr, until_the_end

app = typer.Typer(no_args_is_help=True, help="Create and revoke API keys. A running server applies changes at once.")


def _rate(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,5})/min", text)
    if found is None:
        raise typer.BadParameter("write it as a number of jobs per minute: 10/min")
    return int(found[1])


_MOST = 2**31 - 1


@app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="A name for the key, such as its user or purpose.")],
    rate: Annotated[
        int | None, typer.Option(parser=_rate, metavar="N/min", help="Jobs a minute. Default: no limit.")
    ] = None,
    daily: Annotated[int | None, typer.Option(min=0, max=_MOST, help="Jobs a day (UTC). Default: no limit.")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help="Jobs queued or running at the same time. Default: no limit.")
    ] = None,
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Jobs of higher priority run sooner.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """Create a key and print it. It can't be shown again: the server stores only its hash."""
    from server.db.limits import Limits

    with plain_errors():
        limits = Limits(rate=rate, daily=daily, concurrent=concurrent, priority=priority)
        _, secret = _open_keys(data_dir).create(name, limits)
    stderr.print("Keep this key; it can't be shown again:")
    print(secret)


@app.command("list")
def keys_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all keys, also revoked ones, by their first characters."""
    with plain_errors():
        found = _open_keys(data_dir).list()
    if as_json:
        print(json.dumps([asdict(key) for key in found]))
        return
    table = Table(
        Column("begins", no_wrap=True), "name", "made", "revoked", "rate", "daily", "at once", "priority", box=None
    )
    for key in found:
        limits = key.limits
        rate = "" if limits.rate is None else f"{limits.rate}/min"
        daily = f"{key.today}" if limits.daily is None else f"{key.today} of {limits.daily}"
        at_once = "" if limits.concurrent is None else f"{limits.concurrent}"
        times = (_day(key.created_at), _day(key.revoked_at))
        table.add_row(key.prefix, escape(key.name), *times, rate, daily, at_once, f"{limits.priority}")
    show(table)


@app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="The key's name, or its first characters.")], data_dir: DataDir = None
) -> None:
    """Revoke a key. Its jobs continue, and are kept as long as all others."""
    with plain_errors():
        key = _open_keys(data_dir).revoke(name)
    print(f"revoked {key.prefix}… ({key.name})")


def _day(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))


def _open_keys(data_dir: Path | None) -> Any:
    """The keys of the server on this data folder, also before its first start."""
    from server.config import load_config
    from server.db.database import is_current, migrate, open_database
    from server.db.keys import Keys
    from server.files import set_private_umask

    config = load_config(data_dir=data_dir)
    set_private_umask()
    if not is_current(config.database):
        migrate(config.database)
    return Keys(until_the_end(open_database(config.database)))
