"""The command line: `python -m server`, installed as `upscale-server`."""

import io
import sys

import typer

from server.cli import doctor, jobs, keys, serve, upscale, weights

app = typer.Typer(
    name="upscale-server", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
app.command()(upscale.upscale)
app.command()(serve.serve)
app.command(hidden=True)(serve.api)
app.command()(serve.worker)
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(weights.app, name="weights")
app.command()(doctor.doctor)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal lacks
    app()
