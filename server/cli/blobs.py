"""`blobs`: the stored pictures, as a whole."""

from typing import Annotated

import typer

from server.cli.base import DataDir, complain, plain, plain_errors, stderr, stdout

app = typer.Typer(no_args_is_help=True, help="Copy the stored pictures, for example from the folder to a bucket.")


@app.command("copy")
def blobs_copy(
    to: Annotated[str, typer.Option("--to", help="A bucket, such as s3://bucket/prefix, or a folder.")],
    endpoint: Annotated[
        str | None, typer.Option(help="URL of the server of the bucket in --to. Default: UPSCALE_BLOB_ENDPOINT.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every copy back and compare it, also those of earlier runs.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Copy all stored pictures to another store. Run it again to copy what is new or was left out.

    The sizes of all copies are checked. The server may run: copy once while it runs, and again after it has stopped.
    Nothing changes in the old store.
    """
    from rich.progress import Progress

    from server.config import load_config

    with plain_errors():
        from server.blobs import open_blobs
        from server.blobs.copy import Copier, open_place
        from server.logs import configure_logs

        config = load_config(data_dir=data_dir)
        configure_logs()
        copier = Copier(open_blobs(config), open_place(to, endpoint or config.blob_endpoint, config), verify=verify)
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            bar = progress.add_task("copying", total=None)
            for failure in copier.run(lambda done, total: progress.update(bar, completed=done, total=total)):
                complain(plain(failure))
        said = f"{copier.copied} copied ({copier.bytes / 1e6:.1f} MB), {copier.present} were there already"
        stdout.print(said + (f", {copier.failed} failed" if copier.failed else ""), markup=False, highlight=False)
    if copier.failed:
        raise typer.Exit(1)
