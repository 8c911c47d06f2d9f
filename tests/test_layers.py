"""The arrows of the design: who may import whom. Names are those of `server/`, a plural folder's for all its files."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SERVER = Path(__file__).parent.parent / "server"

ROOMS = ("engine", "files", "weights", "kernels")
"""Folders whose files are parts of one thing, and build on each other: each has a level of its own."""

LEVELS = (
    ("__init__", "files.change", "engine", "files", "weights", "detailnet", "kernels.build", "kernels.binding"),
    (
        "errors",
        "disk",
        "written",
        "content",
        "kernels.network",
        "kernels.lanczos",
        "kernels.colour",
        "files.exif",
        "files.xmp",
        "files.icc",
        "files.jpeg",
        "files.fields",
        "files.heif",
        "files.chunks",
    ),
    (
        "rates",
        "files.timing",
        "files.canvas",
        "files.tiff",
        "files.resolution",
        "files.bounds",
        "kernels",
        "kernels.__main__",
    ),
    ("formats", "config", "creativity", "logs", "outage", "files.colour", "files.primaries", "files.unread"),
    ("files.gif", "files.apng", "files.webp"),
    ("job", "files.texts"),
    ("files.metadata", "files.png"),
    ("files.foreign",),
    ("bodies", "cors", "plan", "weights.choice", "files.picture", "database", "blobs", "files.save"),
    ("turns", "waiting", "remembered"),
    (
        "deliveries",
        "price",
        "secret",
        "weights.manifest",
        "limits",
        "files.bleed",
        "files.film",
        "files.animation",
        "files.losses",
    ),
    ("migrations", "jobs", "keys", "uploads", "weights.store", "weights.package", "device", "shim", "stream", "guard"),
    ("fetch", "models", "resample", "weights.own", "weights.download"),
    ("engine.tile", "engine.scheduler", "engine.transfer", "engine.graphs", "engine.residents", "weights.catalog"),
    ("weights.faces", "weights.refiner", "autoencoder", "prompt"),
    ("weights.indexer", "weights.pull", "weights.archive"),
    ("engine.engine", "service", "serving", "auth", "metrics"),
    ("faces", "refiners", "session", "spool", "backprojection", "colourlock"),
    ("sampler",),
    ("dialects", "pipeline"),
    ("webhook", "schemas", "page", "upkeep", "sweep", "wire"),
    ("upscaler",),
    ("app", "worker"),
    ("launch",),
    ("cli",),
    ("__main__",),
)
"""From the bottom up: a file imports only from levels below its own. A plural folder's files may import its `base`."""

API_HALF = {"guard", "fetch", "weights.download", "weights.pull", "service", "auth", "session", "dialects", "schemas"}
API_HALF |= {"bodies", "cors", "waiting", "webhook", "metrics", "page", "serving", "upkeep", "wire", "app"}
WORKER_HALF = {"kernels", "kernels.__main__", "kernels.build", "kernels.binding", "kernels.network", "kernels.lanczos"}
WORKER_HALF |= {"kernels.colour"}
WORKER_HALF |= {"device", "shim", "resample", "stream", "models", "faces", "weights.indexer", "engine"}
WORKER_HALF |= {"files.animation", "files.bleed", "files.film", "files.png", "files.save", "files.webp"}
WORKER_HALF |= {"detailnet", "refiners", "colourlock", "autoencoder", "prompt", "sampler", "spool", "backprojection"}
WORKER_HALF |= {"engine.engine", "engine.tile", "engine.scheduler", "engine.transfer", "engine.graphs"}
WORKER_HALF |= {"engine.residents", "pipeline", "sweep"}
WORKER_HALF |= {"upscaler", "worker"}
HEAVY = {"torch", "torchvision", "basicsr", "realesrgan", "gfpgan", "cv2"}
WEB = {"fastapi", "starlette", "uvicorn", "sse_starlette", "httpx"}

LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(path for path in SERVER.rglob("*.py") if "versions" not in path.parts)


def ids(path: Path) -> str:
    return str(path.relative_to(SERVER))


def name_of(path: Path) -> str:
    return name(path.relative_to(SERVER).with_suffix("").parts)


def name(parts: tuple[str, ...]) -> str:
    """As the table has it."""
    inner = parts[0] in ROOMS and parts[1:] not in ((), ("__init__",))
    return ".".join(parts[:2]) if inner else parts[0]


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


def ours(path: Path) -> set[tuple[str, ...]]:
    """Parts of the imported modules of `server`, without the names taken from them."""
    modules = set()
    for dotted in imports(path):
        parts = dotted.split(".")
        if parts[0] == "server":
            while len(parts) > 1 and not (
                SERVER.joinpath(*parts[1:]).is_dir() or SERVER.joinpath(*parts[1:]).with_suffix(".py").exists()
            ):
                parts.pop()
            modules.add(tuple(parts[1:]) or ("__init__",))
    return modules


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_every_file_has_its_level_and_imports_from_below(path: Path) -> None:
    own = name_of(path)
    assert own in LEVEL, f"give {own} a level in this file's table"
    for module in ours(path):
        if name(module) == own:
            is_list = path.name == "__init__.py"
            assert is_list or module[1:] == ("base",), f"{ids(path)} imports its sibling {'.'.join(module)}"
        else:
            assert LEVEL[name(module)] < LEVEL[own], f"{ids(path)} imports {'.'.join(module)}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_the_halves_meet_only_at_the_tables_and_blobs(path: Path) -> None:
    own = name_of(path)
    used = {name(module) for module in ours(path)}
    packages = {dotted.split(".")[0] for dotted in imports(path)}
    if own in WORKER_HALF:
        assert not used & API_HALF and not packages & WEB
    elif own not in ("launch", "cli", "__main__"):  # these start either half, each in its own process
        assert not used & WORKER_HALF and not packages & HEAVY


def folders() -> list[Path]:
    return sorted(path.parent for path in SERVER.glob("*/base.py"))


@pytest.mark.parametrize("folder", folders(), ids=ids)
def test_every_file_of_a_folder_is_in_its_list(folder: Path) -> None:
    listed = {module[1] for module in ours(folder / "__init__.py") if module[0] == folder.name and len(module) > 1}
    assert listed | {"base"} >= {path.stem for path in folder.glob("*.py")} - {"__init__"}


def test_the_api_half_starts_without_torch() -> None:
    code = f"import sys, server.app; print([name for name in sys.modules if name in {sorted(HEAVY)!r}])"
    run = subprocess.run([sys.executable, "-c", code], cwd=SERVER.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
