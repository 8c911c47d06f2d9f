"""`mcp`: this server as a tool of agents and editors, over standard input and output."""

from typing import Annotated

import typer

from server.cli.base import DataDir, Device, fail, plain_errors


def mcp(
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server, such as http://127.0.0.1:8000. Default: one is started, and ends with this."
        ),
    ] = None,
    data_dir: DataDir = None,
    device: Device = None,
) -> None:
    """Serve the Model Context Protocol over standard input and output, for agents and editors (needs the extra mcp).

    The first of UPSCALE_API_KEYS is sent to a server that has keys.
    """
    import logging

    from server.config import load_config
    from server.logs import configure_logs

    with plain_errors():
        config = load_config(data_dir=data_dir, device=device)
        if url is not None and not url.startswith(("http://", "https://")):
            fail("--url must start with http:// or https://", code=2)
        try:
            from server.cli.bridge import run
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
                raise
            fail("this needs the extra `mcp`: pip install 'upscale-server[mcp]'")
        configure_logs(logging.WARNING)
        run(config, url)
