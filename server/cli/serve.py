"""`serve`, and its processes `api` and `worker`."""

from typing import Annotated

import typer

from server.cli.base import DataDir, Device, fail, plain_errors, with_malloc_settings
from server.files import set_private_umask

Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]
"""It was started by another process of ours, and ends when its standard input does."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: a free port. Default 8000.")] = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per GPU, or one.")] = None,
    device: Device = None,
    supervised: Supervised = False,
) -> None:
    """Run the server: the APIs and the workers."""
    from server.config import load_config
    from server.launch import CannotListen, Launcher, watch_parent
    from server.logs import configure_logs

    with plain_errors():
        config = load_config(host=host, port=port, data_dir=data_dir, workers=workers, device=device)
        configure_logs()
        set_private_umask()
        if supervised:
            watch_parent()
        try:
            Launcher(config).run()
        except CannotListen as error:
            fail(str(error))


def api(fd: Annotated[int, typer.Option(help="The listening socket.")]) -> None:
    """The API process of `serve`."""
    import socket
    import sys

    from server.api.app import create_app
    from server.api.protocol import server_of
    from server.config import load_config
    from server.launch import watch_parent
    from server.logs import configure_logs

    configure_logs()
    set_private_umask()
    watch_parent()
    # Shorter than the default, so that threads that read pictures delay responses less.
    sys.setswitchinterval(0.001)
    server_of(create_app(load_config())).run(sockets=[socket.socket(fileno=fd)])


def worker(
    data_dir: DataDir = None,
    device: Device = None,
    worker_id: Annotated[str | None, typer.Option("--id", hidden=True)] = None,
    supervised: Supervised = False,
) -> None:
    """Run one more worker for the jobs of `serve`, for example on another GPU."""
    with_malloc_settings()
    from server.config import load_config
    from server.launch import watch_parent
    from server.logs import configure_logs

    with plain_errors():
        config = load_config(data_dir=data_dir, device=device)
        configure_logs()
        set_private_umask()
        if supervised:
            watch_parent()
        from server.worker.loop import run_worker

        run_worker(config, worker_id, supervised=supervised)
