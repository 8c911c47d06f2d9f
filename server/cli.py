"""The command line: `python -m server`, installed as `upscale-server`."""

import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from server import __version__
from server.config import MIB, BadConfig, Config, load_config
from server.errors import UpscaleError
from server.formats import FORMATS
from server.job import Job, Params, State

app = typer.Typer(
    name="upscale-server", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
jobs_app = typer.Typer(no_args_is_help=True, help="Look at the jobs of the server on this data folder.")
app.add_typer(jobs_app, name="jobs")

_out = Console(emoji=False)
_err = Console(stderr=True, emoji=False)

DataDir = Annotated[Path | None, typer.Option(help="Jobs, pictures and installed weights.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def main() -> None:
    app()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors that a person can act on are one line and exit code 1, never a traceback."""
    try:
        yield
    except (UpscaleError, BadConfig) as error:
        _fail(str(error))


def _fail(message: str, code: int = 1) -> NoReturn:
    _complain(message)
    raise typer.Exit(code)


def _complain(message: str) -> None:
    _err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)


# --- upscale --------------------------------------------------------------------------------------------------------


@app.command()
def upscale(
    files: Annotated[list[Path], typer.Argument(help="Pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A file, or a folder for several.")],
    scale: Annotated[float | None, typer.Option(help="Outscale, more than 0 and at most 10. Default 4.")] = None,
    target: Annotated[str | None, typer.Option(help="2k, 4k or 8k: the long edge.")] = None,
    size: Annotated[str | None, typer.Option(help="Exact WIDTHxHEIGHT; the aspect may change.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="jpeg, png or webp. Default: by -o, else png.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="1…100, for jpeg and webp.")] = None,
    model: Annotated[str, typer.Option(help="A model's name, a checkpoint's path, or auto.")] = "auto",
    device: Device = None,
    creativity: Annotated[float, typer.Option(help="-2…2. No effect in this version.")] = 0.0,
    faces: Annotated[bool, typer.Option("--faces", help="Enhance faces. Not available in this version.")] = False,
    seed: Annotated[int | None, typer.Option(help="For the refine pass. No effect in this version.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Upscale pictures here and now, without a server."""
    _with_malloc_settings()
    with _plain_errors():
        if faces:
            _fail("face enhancement is not available in this version", code=2)
        config = load_config(device=device, data_dir=data_dir)
        format_ = format_ or _format_of(output)
        if scale is None and target is None and size is None:
            scale = 4.0
        params = Params(
            scale=scale,
            target=target,  # type: ignore[arg-type]  # Params refuses what is not a Target, in words
            size=_parse_size(size),
            format=format_,  # type: ignore[arg-type]  # likewise
            quality=quality,
            model=model,
            creativity=creativity,
            seed=seed,
        )
        destinations = _destinations(files, output, params.format)
        failed = _upscale_all(config, params, destinations, as_json)
    if failed:
        raise typer.Exit(1)


def _upscale_all(config: Config, params: Params, destinations: dict[Path, Path], as_json: bool) -> int:
    """Returns how many failed; a failure of one does not stop the others."""
    from server.logs import configure_logs
    from server.upscaler import Upscaler
    from server.weights import Catalog

    configure_logs(logging.WARNING)  # without it they would go to standard output
    upscaler = Upscaler(config, Catalog(config.weights_path, tile=config.tile), allow_paths=True)
    upscaler.load(params.model)  # a wrong name is one error, not one per file
    failed = 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, disable=as_json or not _err.is_terminal, transient=True) as progress:
        for source, destination in destinations.items():
            bar = progress.add_task(source.name, total=1.0)
            started = time.perf_counter()
            try:
                ctx = upscaler.prepare(params, source.read_bytes())
                upscaler.run(ctx, lambda ctx=ctx, bar=bar: progress.update(bar, completed=ctx.progress))  # type: ignore[misc]
                _write(destination, ctx.result)
            except (UpscaleError, OSError) as error:
                failed += 1
                reason = error.message if isinstance(error, UpscaleError) else error.strerror or str(error)
                if as_json:
                    print(json.dumps({"source": str(source), "error": reason}), flush=True)
                else:
                    _complain(f"{source}: {reason}")
                continue
            finally:
                progress.remove_task(bar)
            h, w = ctx.samples.shape[:2]
            seconds = round(time.perf_counter() - started, 3)
            if as_json:
                line = {"source": str(source), "result": str(destination), "width": w, "height": h}
                line |= {"model": ctx.model.name if ctx.model else "none", "seconds": seconds, "steps": ctx.seconds}
                print(json.dumps(line), flush=True)
            else:
                done = f"{destination}  {w}×{h}  {seconds:.1f} s"
                _out.print(done, markup=False, highlight=False, soft_wrap=True)
    return failed


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def _format_of(output: Path) -> str:
    suffix = output.suffix.lower().lstrip(".")
    return {"jpg": "jpeg"}.get(suffix, suffix) if suffix in (*FORMATS, "jpg") else "png"


def _destinations(files: list[Path], output: Path, format_: str) -> dict[Path, Path]:
    """Where each picture's result goes. Never over a source, and never two at one place."""
    if len(files) == 1 and not output.is_dir() and output.suffix:
        result = {files[0]: output}
    elif output.is_file():
        _fail(f"{output} is a file; several pictures need a folder", code=2)
    else:
        result = {file: output / (file.stem + FORMATS[format_].suffix) for file in files}
    if len(set(result.values())) < len(result):
        _fail("two of the pictures would be written to the same file", code=2)
    sources = {file.resolve() for file in files}
    for file, destination in result.items():
        if destination.resolve() in sources:
            _fail(f"the result of {file} would overwrite {destination}", code=2)
    return result


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        _fail(f"--size wants WIDTHxHEIGHT, for example 1920x1080, not {text!r}", code=2)
    return int(width), int(height)


def _with_malloc_settings() -> None:
    """Start over with glibc's settings for networks: they are read before the first line of Python runs."""
    from server.launch import MALLOC_ENV

    if os.name == "posix" and not all(name in os.environ for name in MALLOC_ENV):
        os.execve(sys.executable, [sys.executable, "-m", "server", *sys.argv[1:]], os.environ | MALLOC_ENV)


# --- serve, worker --------------------------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. Default 8000.")] = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per GPU, or one.")] = None,
    device: Device = None,
) -> None:
    """Run the server: the APIs and the workers."""
    from server.launch import CannotListen, Launcher
    from server.logs import configure_logs

    with _plain_errors():
        config = load_config(host=host, port=port, data_dir=data_dir, workers=workers, device=device)
        configure_logs()
        try:
            Launcher(config).run()
        except CannotListen as error:
            _fail(str(error))


@app.command(hidden=True)
def api(fd: Annotated[int, typer.Option(help="The listening socket.")]) -> None:
    """The API process of `serve`."""
    import socket

    import uvicorn

    from server.app import create_app
    from server.launch import watch_parent
    from server.logs import configure_logs

    configure_logs()
    watch_parent()
    config = uvicorn.Config(
        create_app(load_config()),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
        ws_max_size=64 * MIB,  # pictures come in frames, as base64
        ws_per_message_deflate=False,  # they hardly shrink, and everybody would wait for it
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


@app.command()
def worker(
    data_dir: DataDir = None,
    device: Device = None,
    worker_id: Annotated[str | None, typer.Option("--id", hidden=True)] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run one more worker on the job table of `serve`, for example on another GPU."""
    from server.launch import watch_parent
    from server.logs import configure_logs

    _with_malloc_settings()
    with _plain_errors():
        config = load_config(data_dir=data_dir, device=device)
        configure_logs()
        if supervised:
            watch_parent()
        from server.worker import run_worker

        run_worker(config, worker_id)


# --- jobs -----------------------------------------------------------------------------------------------------------


@jobs_app.command("list")
def jobs_list(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1, max=10_000)] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest jobs, of every caller."""
    with _plain_errors():
        found, _ = _open_jobs(data_dir).list(states=[state] if state else [], limit=limit)
    if as_json:
        print(json.dumps([asdict(job) for job in found]))
        return
    table = Table(Column("id", no_wrap=True), "api", "state", "progress", "wanted", "created", "error", box=None)
    for job in found:
        created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.created_at))
        error = escape(job.error_message or "")
        table.add_row(job.id, job.dialect, job.state.value, f"{job.progress:.0%}", _wanted(job), created, error)
    _out.print(table)


@jobs_app.command("show")
def jobs_show(job_id: str, data_dir: DataDir = None) -> None:
    """Everything about one job, as JSON, with what is owed to its caller's addresses."""
    from server.deliveries import Deliveries
    from server.jobs import Jobs

    with _plain_errors():
        engine, lease_s = _open_engine(data_dir)
        job = Jobs(engine, lease_s=lease_s).get(job_id)
        facts = asdict(job) | {"deliveries": [asdict(each) for each in Deliveries(engine).of_job(job_id)]}
        print(json.dumps(facts, indent=2))


@jobs_app.command("cancel")
def jobs_cancel(job_id: str, data_dir: DataDir = None) -> None:
    """Stop a job: at once if it waits, at its next tile if it runs."""
    with _plain_errors():
        job = _open_jobs(data_dir).cancel(job_id)
        if job.state.final and job.state is not State.CANCELLED:
            _fail(f"job {job_id} has ended already: it {job.state.value}")
        print("cancelled" if job.state is State.CANCELLED else "cancelling")


def _wanted(job: Job) -> str:
    params = job.params
    if params.size:
        return f"{params.size[0]}x{params.size[1]} {params.format}"
    return f"{params.target or f'×{params.scale:g}'} {params.format}"


def _open_jobs(data_dir: Path | None) -> Any:
    from server.jobs import Jobs

    engine, lease_s = _open_engine(data_dir)
    return Jobs(engine, lease_s=lease_s)


def _open_engine(data_dir: Path | None) -> tuple[Any, float]:
    """The database of the server on this data folder, and its lease."""
    from server.database import migrate, open_database

    config = load_config(data_dir=data_dir)
    if config.database_url is None and not (config.data_dir / "jobs.sqlite3").exists():
        _fail(f"there are no jobs in {config.data_dir}: no server has run there")
    migrate(config.database)
    return open_database(config.database), config.lease_s


# --- doctor ---------------------------------------------------------------------------------------------------------


@app.command()
def doctor(data_dir: DataDir = None, device: Device = None, as_json: AsJson = False) -> None:
    """What this installation consists of: a page to paste into a bug report."""
    with _plain_errors():
        facts = _examine(load_config(data_dir=data_dir, device=device))
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    _out.print(table)


def _examine(config: Config) -> dict[str, str]:
    import pyvips
    from sqlalchemy import make_url

    from server.logs import configure_logs
    from server.upscaler import Upscaler, torch_versions
    from server.weights import AUTO, Catalog, verify

    configure_logs(logging.WARNING)
    catalog = Catalog(config.weights_path, tile=config.tile)
    facts = {"upscale-server": __version__, "Python": platform.python_version(), "system": platform.platform()}
    facts |= torch_versions()
    facts["libvips"] = ".".join(str(pyvips.version(i)) for i in range(3))
    try:
        facts["device"] = Upscaler(config, catalog).describe()
    except UpscaleError as error:
        facts["device"] = f"PROBLEM: {error.message}"
    for name in catalog.names():
        try:
            facts[f"weights {name}"] = f"verified, {verify(catalog.get(name))[:12]}…"
        except UpscaleError as error:
            facts[f"weights {name}"] = f"PROBLEM: {error.message}"
    facts["model auto"] = catalog.get(AUTO).name if catalog.names() else "PROBLEM: no weights are installed"
    folder = next(path for path in (config.data_dir, *config.data_dir.parents) if path.exists())
    facts["data folder"] = f"{config.data_dir}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        facts["data folder"] += ", PROBLEM: not writable"
    # Without its password: this is for others to read.
    facts["database"] = repr(make_url(config.database_url)) if config.database_url else "SQLite in the data folder"
    return facts
