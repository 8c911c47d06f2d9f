"""`database`: the table of jobs, as a whole."""

from typing import Annotated

import typer

from server.cli.base import DataDir, plain, plain_errors, stdout

app = typer.Typer(no_args_is_help=True, help="Copy the server's database, for example from SQLite to PostgreSQL.")


@app.command("copy")
def database_copy(
    to: Annotated[str, typer.Option("--to", help="URL of an empty database: postgresql://user@host/name.")],
    data_dir: DataDir = None,
) -> None:
    """Copy all jobs, keys, uploads and deliveries into another, empty database. The server must not run.

    Nothing changes in the old database. Pictures are not copied: see `blobs copy`.
    """
    from server.config import load_config

    with plain_errors():
        from server.db.copy import copy_database

        config = load_config(data_dir=data_dir)
        copy_database(
            config.database,
            to,
            lambda name, rows: stdout.print(plain(f"{name}: {rows}"), markup=False, highlight=False),
        )
        stdout.print("copied; set UPSCALE_DATABASE_URL to the new database", markup=False, highlight=False)
