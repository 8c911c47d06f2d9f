"""The command line: `python -m server`, installed as `upscale-server`."""

import atexit
import gc
import io
import sys
from typing import Annotated

import typer

from server import __version__
from server.cli import (
    backup,
    batch,
    blobs,
    database,
    doctor,
    jobs,
    keys,
    mcp,
    provenance,
    serve,
    service,
    upscale,
    verify,
    watch,
    weights,
)

app = typer.Typer(name="upscale-server", no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"upscale-server {__version__}")
        raise typer.Exit


_SHORT = ("jobs", "keys", "weights")
"""Commands that end before what they have allocated is worth collecting."""


@app.callback(help=__doc__)
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options before the command's name."""
    if context.invoked_subcommand not in _SHORT:
        gc.enable()


app.command()(upscale.upscale)
app.command()(watch.watch)
app.command()(batch.batch)
app.command()(serve.serve)
app.command(hidden=True)(serve.worker)
app.command()(mcp.mcp)
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(weights.app, name="weights")
app.add_typer(blobs.app, name="blobs")
app.add_typer(database.app, name="database")
app.add_typer(service.app, name="service")
app.command()(backup.backup)
app.command()(provenance.inspect)
app.command()(verify.verify)
app.command("signing-chain")(provenance.signing_chain)
app.command()(doctor.doctor)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal lacks
    # Collecting garbage takes a third of a short command: while it imports modules, and all of them at its end.
    gc.disable()
    atexit.register(gc.freeze)
    app()
