"""MCP over standard input and output: each call is handed on to a server's `/mcp`, and files are read and written here.

The server is one that runs already, or one that is started at the first call and ends with this process. All else that
is true of `/mcp` is true here: the tools are those of server/api/dialects/mcp, with `path` and `output` in addition.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
from anyio import to_thread
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

from server import __version__, own_command
from server.api.dialects.mcp.tools import INSTRUCTIONS, list_tools
from server.cli.options import format_name
from server.config import Config
from server.errors import InvalidField, Unavailable, UpscaleError
from server.files import atomic_file
from server.images.read.sniff import READABLE, SNIFFED_BYTES, sniff
from server.job.formats import FORMATS

PROTOCOL = "2026-07-28"
"""To the server: a version without sessions, so that a server that restarts is no trouble."""
_TIMEOUT = httpx2.Timeout(30, read=120)
"""The server sends something every 15 seconds while a call waits."""
_PATH = {"type": "string", "description": "The picture as a file of this machine: an absolute path. Instead of image."}
_OUTPUT = {
    "type": "string",
    "description": "Absolute path of a new file for the result. Its ending is the format. With path, the default is a "
    "new file beside the source.",
}
_MORE = {"upscale": {"path": _PATH, "output": _OUTPUT}, "plan": {"path": _PATH}, "jobs": {"output": _OUTPUT}}
_FILES = " Here upscale also takes a path, and writes the result beside it or to output."


class Own:
    """A server of this process: `serve`, on a free loopback port."""

    def __init__(self, config: Config) -> None:
        self._command = own_command("serve", "--supervised", "--host", "127.0.0.1", "--port", "0")
        self._command += ["--data-dir", str(config.data_dir), "--device", config.device]
        self._process: subprocess.Popen[str] | None = None
        self._url = ""

    def url(self) -> str:
        """Starts it if it does not run. Raises Unavailable."""
        if self._process is None or self._process.poll() is not None:
            pipe = subprocess.PIPE
            # NOTE: it ends when its standard input does, so also when this process is killed.
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                raise Unavailable("the server did not start; standard error says why")
            self._url = line.split()[-1]
        return self._url

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


class Bridge:
    """For one event loop."""

    def __init__(self, client: httpx2.AsyncClient, url: str | None, own: Own) -> None:
        self._client = client
        self._given_url = url
        self._own = own
        self._starting = anyio.Lock()

    async def call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        try:
            return await self._call(context, params.name, dict(params.arguments or {}))
        except UpscaleError as error:
            message = error.message
        except MCPError as error:
            if error.code == types.INVALID_PARAMS:
                raise
            message = error.message
        except OSError as error:
            message = f"{error.filename or 'a file'}: {error.strerror or error}"
        return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True)

    async def _call(
        self, context: ServerRequestContext[Any, Any], name: str, arguments: dict[str, Any]
    ) -> types.CallToolResult:
        taken = {each: arguments.pop(each, None) for each in _MORE.get(name, {})}
        path, output = (_absolute(each, taken.get(each)) for each in ("path", "output"))
        if path is not None and arguments.get("image"):
            raise InvalidField("give either image or path", field="path")
        if name == "upscale":
            output = _checked_output(path, output, arguments)
        elif output is not None:
            _check_new(output)
        data = None if path is None else await to_thread.run_sync(_read, path)
        async with self._starting:
            url = await to_thread.run_sync(self._own.url) if self._given_url is None else self._given_url
        if data is not None:
            arguments["image"] = await self._uploaded(url, data)
        result = await self._handed_on(url, context, name, arguments)
        return result if output is None else await self._saved(result, output)

    async def _handed_on(
        self, url: str, context: ServerRequestContext[Any, Any], name: str, arguments: dict[str, Any]
    ) -> types.CallToolResult:
        transport = streamable_http_client(f"{url}/mcp", http_client=self._client, max_sse_event_size=None)
        with _reaching(url):
            async with Client(transport, mode=PROTOCOL) as server:
                return await server.call_tool(name, arguments, progress_callback=context.session.report_progress)

    async def _uploaded(self, url: str, data: bytes) -> str:
        """A link to the picture on the server."""
        with _reaching(url):
            answer = await self._client.post(
                f"{url}/uploads", content=data, headers={"Content-Type": "application/octet-stream"}
            )
        if answer.status_code != 201:
            raise UpscaleError(_message(answer))
        return str(answer.json()["url"])

    async def _saved(self, result: types.CallToolResult, output: Path) -> types.CallToolResult:
        """The same, once its picture is in the file."""
        if result.is_error or not isinstance(result.structured_content, dict):
            return result
        body = result.structured_content
        jobs = body.get("jobs", [body])
        picture = jobs[0].get("result") if len(jobs) == 1 else None
        if picture is None:
            told = f"{output} is not written yet: call jobs with the job's id and this output"
        else:
            with _reaching(picture["url"]):
                answer = await self._client.get(picture["url"])
            if answer.status_code != 200:
                raise UpscaleError(_message(answer))
            await to_thread.run_sync(_write, output, answer.content)
            told = f"saved as {output}"
        return result.model_copy(update={"content": [*result.content, types.TextContent(text=told)]})


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Raises the first of a group of exceptions, which is what a client's tasks raise; Unavailable for a connection."""
    try:
        yield
    except Exception as error:
        first: Exception = error
        while (group := getattr(first, "exceptions", None)) is not None:
            first = group[0]
        if isinstance(first, httpx2.HTTPError):
            raise Unavailable(f"{url} can't be reached: {first or type(first).__name__}") from error
        raise first from error


def _message(answer: httpx2.Response) -> str:
    """Of an error of our own API."""
    with suppress(ValueError, KeyError, TypeError):
        return str(answer.json()["error"]["message"])
    return f"the server answered {answer.status_code}"


# --- files ----------------------------------------------------------------------------------------------------------


def _absolute(name: str, text: Any) -> Path | None:
    """Raises InvalidField."""
    if text is None:
        return None
    try:
        path = Path(text).expanduser()
    except (TypeError, RuntimeError) as error:
        raise InvalidField(f"{name} must be an absolute path", field=name) from error
    if not path.is_absolute() or "\0" in str(path):
        raise InvalidField(f"{name} must be an absolute path", field=name)
    return path


def _checked_output(path: Path | None, output: Path | None, arguments: dict[str, Any]) -> Path | None:
    """Where the result is to be written. The name decides the format, or the format the name. Raises InvalidField."""
    wanted = arguments.get("format")
    if output is None:
        if path is None:
            return None
        form = FORMATS.get(wanted or "png")
        if form is None:
            return None  # the server refuses it
        output = path.with_name(f"{path.stem}_upscaled{form.suffix}")
    named = format_name(output.suffix)
    if named not in FORMATS:
        endings = ", ".join(each.suffix for each in FORMATS.values())
        raise InvalidField(f"output must end in one of {endings}", field="output")
    if wanted not in (None, named):
        raise InvalidField(f"{output} is {named} by its name, but format is {wanted}", field="output")
    arguments["format"] = named
    _check_new(output)
    return output


def _check_new(output: Path) -> None:
    """Raises InvalidField."""
    if output.exists():
        raise InvalidField(f"{output} exists: give another path as output", field="output")
    if not output.parent.is_dir():
        raise InvalidField(f"there is no folder {output.parent}", field="output")


def _read(path: Path) -> bytes:
    """Only pictures: whatever an agent asks for, no other file leaves this machine. Raises InvalidField, OSError."""
    if not path.is_file():
        raise InvalidField(f"there is no file {path}", field="path")
    with path.open("rb") as file:
        start = file.read(SNIFFED_BYTES)
        if sniff(start) is None:
            raise InvalidField(f"{path} is not a picture of a kind that can be read: {READABLE}", field="path")
        return start + file.read()


def _write(output: Path, data: bytes) -> None:
    _check_new(output)
    with atomic_file(output) as partial:
        partial.write_bytes(data)


# --- standard input and output --------------------------------------------------------------------------------------


async def _on_list(_: Any, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    tools = list_tools()
    for each in tools:
        each.input_schema["properties"] |= _MORE.get(each.name, {})
    return types.ListToolsResult(tools=tools)


async def _serve(config: Config, url: str | None, own: Own) -> None:
    headers = {"Authorization": f"Bearer {config.api_keys[0]}"} if config.api_keys else {}
    # A proxy of the environment can't reach this machine.
    here = url is None or urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    async with httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT, trust_env=not here) as client:
        server: Server[Any] = Server(
            "upscale-server",
            version=__version__,
            title="upscale-server",
            instructions=INSTRUCTIONS + _FILES,
            on_list_tools=_on_list,
            on_call_tool=Bridge(client, url, own).call,
        )
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())


def run(config: Config, url: str | None) -> None:
    """Serve until standard input ends. `url`: of a running server; None: one is started."""
    own = Own(config)
    if url is not None:
        url = url.rstrip("/").removesuffix("/mcp")
    try:
        anyio.run(_serve, config, url, own)
    finally:
        own.end()
