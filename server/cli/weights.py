"""`weights`: list weights, and install them over the network or from a tar file."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from server.cli.base import AsJson, DataDir, complain, fail, plain_errors, show, stderr, stdout
from server.errors import UpscaleError

if TYPE_CHECKING:
    from rich.progress import Progress

    from server.config import Config, LicencePolicy
    from server.weights.catalog import Catalog
    from server.weights.manifest import Entry, File, Manifest
    from server.weights.own import Own

app = typer.Typer(no_args_is_help=True, help="List, download, verify, export and import weights.")

Names = Annotated[
    list[str] | None, typer.Argument(help="Models, or groups of models. Default: all that are installed.")
]


@dataclass(frozen=True)
class _Row:
    name: str
    kind: str
    state: str
    """bundled, installed, "package, fp16", missing or refused; or "own, " and the network, or "PROBLEM: " and the
    reason."""
    sha256: str | None
    """Of the file that is used, or would be downloaded; None if there are several, or if it is unknown."""
    bytes: int | None
    licence: str
    commercial: bool | None
    note: str
    author: str = ""
    source: str = ""


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all weights of the manifest, and your own checkpoints in the weights folder. --json adds notes."""
    from server.config import load_config
    from server.weights.catalog import Catalog
    from server.weights.manifest import read_manifest

    with _plain_errors():
        config = load_config(data_dir=data_dir)
        catalog = Catalog(config.weights_path)
        rows = [_row(entry, catalog, config.licence_policy) for entry in read_manifest().entries.values()]
        rows += [_own_row(own, config) for own in _look_at_own(config)]
    if as_json:
        print(json.dumps([vars(row) for row in rows]))
        return
    table = Table(
        Column("name", no_wrap=True), "kind", "state", Column("MB", justify="right"), "SHA-256", "licence", box=None
    )
    for row in rows:
        megabytes = f"{row.bytes / 1e6:,.1f}" if row.bytes else "?"
        licence = escape(", ".join(each for each in (row.licence, row.author, row.source) if each))
        table.add_row(row.name, row.kind, escape(row.state), megabytes, (row.sha256 or "?")[:12], licence)
    show(table)


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Models, or groups: realesrgan, gfpgan, sdxl, all.")],
    data_dir: DataDir = None,
) -> None:
    """Download, check and install weights. An interrupted download is resumed."""
    from server.config import load_config
    from server.outbound.pull_weights import pull as pull_files
    from server.weights.manifest import read_manifest

    with _plain_errors():
        config = load_config(data_dir=data_dir)
        entries = read_manifest().select(names)
        with _bars() as bars:

            def show(file: "File") -> "_Bar":
                return _Bar(bars, str(file.path))

            for pulled in pull_files(entries, config, show):
                _say(f"{pulled.file.path}  {'already installed' if pulled.was_here else 'installed'}, {pulled.sha256}")
                if pulled.pinned:
                    stderr.print(
                        f"note: the hash of {pulled.file.path} is not confirmed: no two public sources were found. "
                        "It is now pinned in pins.json",
                        highlight=False,
                        soft_wrap=True,
                    )


@app.command()
def add(
    source: Annotated[str, typer.Argument(help="A checkpoint: a file, or its http(s) address.")],
    sha256: Annotated[str, typer.Option(help="That it must have. Needed for an address.")] = "",
    name: Annotated[str, typer.Option(help="File name in the weights folder. Default: its own.")] = "",
    licence: Annotated[str, typer.Option(help="As its publisher states it, by its SPDX name: MIT, CC-BY-4.0.")] = "",
    author: Annotated[str, typer.Option(help="Who made it.")] = "",
    published: Annotated[str, typer.Option("--source", help="Where it was published. Default: the address.")] = "",
    purpose: Annotated[str, typer.Option(help="What it is for, in a few words.")] = "",
    scale: Annotated[
        int | None, typer.Option(min=1, help="Its scale, where its weights don't tell: ×3 of ESRGAN.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Install a checkpoint of your own, and keep beside it what you say of it. A download is resumed."""
    from server.config import load_config
    from server.logs import configure_logs
    from server.outbound.add_weights import add as install
    from server.outbound.add_weights import is_address, name_of
    from server.weights.own import Stated, stated_at
    from server.worker.indexer import index

    with _plain_errors():
        config = load_config(data_dir=data_dir)
        stated = Stated(
            sha256.lower(), licence, author, published or (source if is_address(source) else ""), purpose, scale
        )
        name = name or name_of(source)
        with _bars() as bars:
            path = install(source, name, stated, config, _Bar(bars, name))
        configure_logs(logging.ERROR)
        own = next(own for own in index(config.weights_path) if own.file == path.name)
        if own.network is None:
            path.unlink()
            stated_at(path).unlink()
            index(config.weights_path)
            fail(f"not installed: {own.problem}")
        _say(f"{own.name}  {own.network.arch} ×{own.network.scale}, {own.network.sha256}")


def _bars() -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True)


class _Bar:
    """The progress of one download, removed when it has ended."""

    def __init__(self, bars: "Progress", name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=None)

    def __call__(self, done: int, total: int | None) -> None:
        self._bars.update(self._task, completed=done, total=total, visible=done != total)


@app.command("verify")
def verify_(names: Names = None, data_dir: DataDir = None) -> None:
    """Verify the hashes of weights. Exits with 1 if one is wrong."""
    from server.config import load_config
    from server.weights.catalog import Catalog, verify
    from server.weights.manifest import read_manifest

    failed = 0
    with _plain_errors():
        config = load_config(data_dir=data_dir)
        # Without the licence policy: only hashes are checked.
        catalog = Catalog(config.weights_path)
        manifest = read_manifest()
        own = [each.name for each in _look_at_own(config) if each.network]
        for name in _names_of(manifest, names, own) if names else [*_present(catalog, manifest), *own]:
            try:
                weights = catalog.get(name) if name in own else catalog.find(name)
                digest = verify(weights)
            except UpscaleError as error:
                failed += 1
                complain(error.message)
                continue
            known = all(expected for _, expected in weights.files)
            _say(f"{name}  {'verified' if known else 'hash unknown'}, {digest}")
    if failed:
        raise typer.Exit(1)


@app.command()
def export(
    tar: Annotated[Path, typer.Argument(help="The file to write.")], names: Names = None, data_dir: DataDir = None
) -> None:
    """Write installed weights to a tar, for a machine without a network."""
    from server.config import load_config
    from server.weights.archive import export as write
    from server.weights.catalog import Catalog
    from server.weights.manifest import read_manifest
    from server.weights.store import Store

    with _plain_errors():
        config = load_config(data_dir=data_dir)
        manifest = read_manifest()
        catalog = Catalog(config.weights_path)
        names = names or [name for name in _present(catalog, manifest) if catalog.find(name).form == "release"]
        entries = manifest.select(names)
        for entry in entries:
            if entry.bundled:
                fail(f"{entry.name} is part of the server: it can't be exported", code=2)
        for row in write(entries, Store(config.weights_path), tar):
            _say(f"{row.file.path}  {row.size / 1e6:,.1f} MB, {row.sha256}")


@app.command("import")
def import_(
    tar: Annotated[Path, typer.Argument(help="A tar that `export` has written.")], data_dir: DataDir = None
) -> None:
    """Install the weights of a tar, if all of them are in the manifest and undamaged."""
    from server.config import load_config
    from server.weights.archive import import_ as read
    from server.weights.manifest import read_manifest
    from server.weights.store import Store

    with _plain_errors():
        config = load_config(data_dir=data_dir)
        for row in read(tar, Store(config.weights_path), read_manifest(), config.licence_policy):
            _say(f"{row.file.path}  installed, {row.sha256}")


@app.command()
def path(name: str, data_dir: DataDir = None) -> None:
    """Print the path of the weights of that name: a file, or a folder of several files."""
    from server.config import load_config
    from server.weights.catalog import Catalog

    with _plain_errors():
        config = load_config(data_dir=data_dir)
        catalog = Catalog.of(config)
        own = [each.name for each in _look_at_own(config)]
        _say(str((catalog.get(name) if name in own else catalog.find(name)).path))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """As `plain_errors`, and errors of the file system too."""
    with plain_errors():
        try:
            yield
        except OSError as error:
            fail(f"{error.filename or 'weights'}: {error.strerror or error}")


def _say(line: str) -> None:
    stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _row(entry: "Entry", catalog: "Catalog", policy: "LicencePolicy") -> _Row:
    sha256, size = entry.files[0].sha256 if len(entry.files) == 1 else None, entry.size
    if policy == "commercial" and not entry.commercial:
        state = "refused"
    elif entry.name not in catalog.names(entry.kind):
        state = "missing"
    else:
        found = catalog.find(entry.name)
        state, sha256 = "installed" if found.form == "release" else found.form, found.sha256
        size = entry.package.size if entry.package is not None and found.form != "release" else entry.size
    return _Row(entry.name, entry.kind.value, state, sha256, size, entry.licence, entry.commercial, entry.note)


def _own_row(own: "Own", config: "Config") -> _Row:
    from server.weights.own import Stated, allows_commercial, read_stated

    stated = read_stated(config.weights_path / own.file) or Stated("")
    commercial = allows_commercial(stated.licence, own.network.arch if own.network else "") if stated.licence else None
    state = f"own, {own.network.arch} ×{own.network.scale}" if own.network else f"PROBLEM: {own.problem}"
    sha256 = own.network.sha256 if own.network else None
    if config.licence_policy == "commercial" and not commercial:
        state = "refused"
    note = stated.purpose or own.file
    licence = stated.licence or "unknown"
    return _Row(own.name, "upscaler", state, sha256, own.size, licence, commercial, note, stated.author, stated.source)


def _look_at_own(config: "Config") -> list["Own"]:
    """The operator's own checkpoints. New ones are recognised now, which needs torch and takes seconds."""
    from server.weights.manifest import read_manifest
    from server.weights.own import candidates, read_index

    folder = config.weights_path
    known = read_index(folder)
    files = {path.name for path in candidates(folder, read_manifest())}
    if files == {own.file for own in known if own.network}:
        return known
    from server.logs import configure_logs
    from server.worker.indexer import index

    configure_logs(logging.ERROR)  # the caller reports problems of a file
    return index(folder)


def _present(catalog: "Catalog", manifest: "Manifest") -> list[str]:
    kinds = dict.fromkeys(entry.kind for entry in manifest.entries.values())
    return [name for kind in kinds for name in catalog.names(kind) if name in manifest.entries]


def _names_of(manifest: "Manifest", names: list[str], own: list[str]) -> list[str]:
    rest = [name for name in names if name not in own]
    return [entry.name for entry in manifest.select(rest)] + [name for name in names if name in own]
