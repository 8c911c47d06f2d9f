"""The arrows of the design: which package of `server/` may import which, and which half each belongs to."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.paths import ROOT

SERVER = ROOT / "server"

LEVELS = (
    ("__init__", "errors", "logs", "files", "malloc", "detailnet"),
    ("config", "kernels"),
    ("job", "models"),
    ("images", "weights"),
    ("blobs",),
    ("db", "outbound", "engine"),
    ("service", "faces", "refiners", "rows"),
    ("api", "pipeline"),
    ("worker", "launch"),
    ("cli",),
    ("__main__",),
)
"""From the bottom up: a package or file at the top of `server/` imports only from levels below its own."""

API_HALF = {"api", "service", "outbound"}
WORKER_HALF = {
    "worker",
    "pipeline",
    "rows",
    "engine",
    "faces",
    "refiners",
    "models",
    "kernels",
    "images/write",
    "detailnet",
}
BOTH_START = {"launch", "cli", "__main__"}
"""They start either half, each in a process of its own. Whatever is named nowhere here is used by both halves."""

PLUGINS = ("api/dialects", "blobs", "models", "refiners", "faces/restorers", "worker/pools", "cli/pages")
"""Folders of things of one kind. `__init__.py` has the list of them, `base.py` what each must offer."""

HEAVY = {"torch", "torchvision", "basicsr", "realesrgan", "gfpgan", "cv2"}
WEB = {"fastapi", "starlette", "uvicorn", "sse_starlette", "httpx", "mcp"}
EXTRAS = {"spandrel", "mcp", "psycopg", "pypdfium2", "diffusers", "transformers", "ray"}

LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(path for path in SERVER.rglob("*.py") if "versions" not in path.parts)


def ids(path: Path) -> str:
    return str(path.relative_to(SERVER))


def module_of(path: Path) -> str:
    """`api/dialects/base`; a package is its folder."""
    return ids(path).removesuffix(".py").removesuffix("/__init__")


def top(module: str) -> str:
    return module.split("/")[0]


def belongs(module: str, half: set[str]) -> bool:
    return any(module == part or module.startswith(f"{part}/") for part in half)


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of all that a file imports, wherever in it, but for type checkers only."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        nodes.extend(ast.iter_child_nodes(node))
    return frozenset(found)


@cache
def ours(path: Path) -> frozenset[str]:
    """The imported modules of `server`, without the names taken from them."""
    modules = set()
    for dotted in imports(path):
        first, *parts = dotted.split(".")
        if first == "server":
            while parts and not (
                SERVER.joinpath(*parts).is_dir() or SERVER.joinpath(*parts).with_suffix(".py").exists()
            ):
                parts.pop()
            modules.add("/".join(parts) or "__init__")
    return frozenset(modules)


def test_every_package_has_its_level() -> None:
    here = {top(module_of(path)) for path in FILES}
    assert here == LEVEL.keys()
    assert len(here) <= 26, "a listing that can be read at once"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_file_imports_from_below_its_package(path: Path) -> None:
    own = top(module_of(path))
    for module in ours(path):
        if top(module) != own:
            assert LEVEL[top(module)] < LEVEL[own], f"{ids(path)} imports {module}, which is not below it"


def test_files_do_not_import_each_other_in_a_circle() -> None:
    """A folder's `__init__.py` imports its own files, which may import the folder's `base.py` and each other."""
    graph = {module_of(path): ours(path) - {module_of(path)} for path in FILES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_the_halves_meet_only_at_the_tables_and_blobs(path: Path) -> None:
    own = module_of(path)
    packages = {dotted.split(".")[0] for dotted in imports(path)}
    if belongs(own, WORKER_HALF):
        assert not any(belongs(module, API_HALF) for module in ours(path))
        assert not packages & WEB
    elif not belongs(own, BOTH_START):
        assert not any(belongs(module, WORKER_HALF) for module in ours(path))
        assert not packages & HEAVY


@pytest.mark.parametrize("folder", PLUGINS)
def test_every_plug_in_is_in_the_list_of_its_folder(folder: str) -> None:
    listed = ours(SERVER / folder / "__init__.py")
    shared = {"base", "basicsr_shim", "depends", "fields", "staging", "lifecycle", "copy"}
    plugins = {each.stem for each in (SERVER / folder).iterdir() if not each.name.startswith("_")} - shared
    for plugin in plugins:
        assert any(belongs(module, {f"{folder}/{plugin}"}) for module in listed), f"{folder}/{plugin}"


@pytest.mark.parametrize("path", sorted(SERVER.glob("api/dialects/*/translate.py")), ids=ids)
def test_translation_needs_no_web_framework(path: Path) -> None:
    assert not {dotted.split(".")[0] for dotted in imports(path)} & WEB
    assert not ours(path) & {"api/dialects/depends", "api/responses", "service/service"}


def test_the_api_half_starts_without_torch_and_without_extras() -> None:
    unwanted = sorted(HEAVY | EXTRAS)
    code = f"import sys, server.api.app; print([name for name in sys.modules if name in {unwanted!r}])"
    run = subprocess.run([sys.executable, "-c", code], cwd=SERVER.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_worker_half_starts_without_the_web_framework() -> None:
    code = f"import sys, server.worker.process; print([name for name in sys.modules if name in {sorted(WEB)!r}])"
    run = subprocess.run([sys.executable, "-c", code], cwd=SERVER.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 450
