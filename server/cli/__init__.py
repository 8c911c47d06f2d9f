"""The command line: `python -m server`, installed as `upscale-server`."""

import atexit
import gc
import io
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from server import __version__

_COMMANDS = {
    "upscale": "upscale:upscale",
    "watch": "watch:watch",
    "batch": "batch:batch",
    "serve": "serve:serve",
    "worker": "serve:worker",
    "mcp": "mcp:mcp",
    "jobs": "jobs:app",
    "keys": "keys:app",
    "weights": "weights:app",
    "blobs": "blobs:app",
    "database": "database:app",
    "service": "service:app",
    "backup": "backup:backup",
    "inspect": "provenance:inspect",
    "signing-chain": "provenance:signing_chain",
    "doctor": "doctor:doctor",
}
"""The commands in the order of `--help`: a module of this folder, and the function or the group of commands in it."""
_HIDDEN = ("worker",)


class _Commands(TyperGroup):
    """Only the module of the command that is called is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"{__name__}.{module}"), name)
        alone = typer.Typer()
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=cmd_name)
        else:
            alone.command(cmd_name, hidden=cmd_name in _HIDDEN)(found)
        return get_group(alone).commands[cmd_name]


app = typer.Typer(name="upscale-server", cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"upscale-server {__version__}")
        raise typer.Exit


_SHORT = ("jobs", "keys", "weights")
"""Commands that end before what they have allocated is worth collecting."""


@app.callback(help=__doc__)
def general_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options before the command's name."""
    if context.invoked_subcommand not in _SHORT:
        gc.enable()


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal lacks
    # Collecting garbage takes a third of a short command: while it imports modules, and all of them at its end.
    gc.disable()
    atexit.register(gc.freeze)
    app()
