"""`serve`: the whole server or one half of it. Its launcher starts each process with the same command, and hidden
options."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from server.cli.base import DataDir, Device, fail, plain_errors
from server.files import set_private_umask

if TYPE_CHECKING:
    from server.config import Config


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: a free port. Default 8000.")] = None,
    data_dir: DataDir = None,
    role: Annotated[
        Literal["all", "api", "worker"] | None,
        typer.Option(help="What this machine does: api, worker, or all for both. Default all."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per GPU, or one.")] = None,
    device: Device = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="Be the API process, on this socket.")] = None,
    worker_id: Annotated[str | None, typer.Option("--id", hidden=True, help="Be the worker of this name.")] = None,
    supervised: Annotated[bool, typer.Option(hidden=True, help="End when standard input does.")] = False,
) -> None:
    """Run the server: the APIs and the workers, or one of the two."""
    from server.config import load_config
    from server.launch import CannotStart, Launcher, watch_parent
    from server.logs import configure_logs

    with plain_errors():
        config = load_config(host=host, port=port, data_dir=data_dir, role=role, workers=workers, device=device)
        configure_logs()
        set_private_umask()
        if fd is not None:
            _be_the_api(config, fd)
        elif worker_id is not None:
            _be_a_worker(config, worker_id)
        else:
            if supervised:
                watch_parent()
            try:
                Launcher(config).run()
            except CannotStart as error:
                fail(str(error))


def worker(data_dir: DataDir = None, device: Device = None) -> None:
    """The earlier name of `serve --role worker --workers 1`."""
    serve(data_dir=data_dir, role="worker", workers=1, device=device)


def _be_the_api(config: "Config", fd: int) -> None:
    import gc
    import socket
    import sys

    from server.api.app import create_app
    from server.api.protocol import server_of
    from server.launch import watch_parent

    watch_parent()
    # Shorter than the default, so that threads that read pictures delay responses less.
    sys.setswitchinterval(0.001)
    app = create_app(config)
    # A collection of all that was imported would delay every answer that waits for it.
    gc.collect()
    gc.freeze()
    server_of(app).run(sockets=[socket.socket(fileno=fd)])


def _be_a_worker(config: "Config", worker_id: str) -> None:
    from server.launch import watch_parent

    watch_parent()
    from server.worker.process import run_worker

    run_worker(config, worker_id)
