"""The wheel of `make wheel`: what is in it, and what it is in an environment of its own."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from server import __version__
from tests.conftest import LOOPBACK
from tests.paths import PHOTO, ROOT

pytestmark = pytest.mark.slow

UV = Path(sys.executable).with_name("uv")
UNREACHABLE = re.compile(r"(?i)dns error|failed to fetch|connection refused|name resolution|timed out")


def done(*command: object, folder: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Its standard output. Skips the test if it could not reach the package index."""
    words = [str(each) for each in command]
    run = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)
    if run.returncode and UNREACHABLE.search(run.stderr):
        pytest.skip(f"the package index can't be reached: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done("make", "-o", ".venv/installed", "-o", ".venv/kernels", "wheel", f"DIST={folder}")
    return folder


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment. uv puts in what the wheels need, because it links files that it has; then pip
    itself installs the wheels, and finds nothing missing."""
    folder = tmp_path_factory.mktemp("environment")
    versions = folder / "versions"
    versions.write_text("\n".join(re.findall(r"^[a-z0-9-]+==[^\\\n]*", (ROOT / "requirements.lock").read_text(), re.M)))
    files = sorted(wheels.glob("*.whl"))
    python = folder / "env" / "bin" / "python"
    done(UV, "venv", "--quiet", "--seed", "--python", sys.executable, folder / "env")
    # Not in the repository, whose overrides pip does not know.
    done(UV, "pip", "install", "--python", python, "--constraints", versions, *files, folder=folder)
    done(UV, "pip", "uninstall", "--python", python, "upscale-server", "basicsr")
    done(python, "-m", "pip", "install", "--no-index", *files)
    done(python, "-m", "pip", "check")
    return python.parent


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with things that have the names of ours."""
    (tmp_path / "work" / "server").mkdir(parents=True)
    (tmp_path / "work" / "server" / "__init__.py").write_text("raise SystemExit('another server')")
    (tmp_path / "work" / "weights").mkdir()
    return tmp_path / "work"


def clean(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"].replace(str(Path(sys.executable).parent), ""),
        "OMP_NUM_THREADS": "1",
        "UPSCALE_AUTO_LIMIT_S": "0",
        "UPSCALE_DEVICE": "cpu",
    }


@contextmanager
def serving(program: Path, folder: Path, env: dict[str, str]) -> Iterator[httpx.Client]:
    command = [str(program), "serve", "--port", "0"]
    with (folder.parent / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, (folder.parent / "log").read_text()
        with httpx.Client(base_url=line.split()[-1], timeout=60, **LOOPBACK) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def wait_for(condition: object, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_all_that_the_server_reads_is_in_the_wheel(wheels: Path) -> None:
    (path,) = wheels.glob("upscale_server-*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    bundled = (f"bundled/{name}.safetensors" for name in ("fidelity-x4", "refiner"))
    assert {f"server/weights_data/{name}" for name in ("manifest.toml", "NOTICE", "ATTRIBUTION.md", *bundled)} <= names
    for folder in ("api/web", "kernels/cpu", "db/migrations"):
        files = [each for each in (ROOT / "server" / folder).rglob("*") if each.is_file()]
        wanted = {str(each.relative_to(ROOT)) for each in files if not {"__pycache__", "built"} & set(each.parts)}
        assert wanted and wanted <= names
    facts = f"upscale_server-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"server", "upscale_client", facts}
    assert {"upscale_client/client.py", "upscale_client/py.typed"} <= names
    assert not any(name.endswith((".pyc", ".so")) for name in names)


def test_it_serves_from_any_folder(installed: Path, elsewhere: Path) -> None:
    home = elsewhere.parent / "home"
    env = clean(home)
    assert done(installed / "upscale-server", "--version", folder=elsewhere, env=env).split()[1] == __version__
    with serving(installed / "upscale-server", elsewhere, env) as client:
        assert "<html" in client.get("/", headers={"Accept": "text/html"}).text
        assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
        body = {"file": (PHOTO.name, PHOTO.read_bytes(), "image/jpeg")}
        job = client.post("/jobs", files=body, data={"scale": "2"}).json()["id"]
        wait_for(lambda: client.get(f"/jobs/{job}").json()["state"] in ("succeeded", "failed"))
        data = client.get(f"/jobs/{job}/result").content
        with Image.open(BytesIO(data)) as result, Image.open(PHOTO) as source:
            assert result.size == tuple(2 * side for side in source.size)
    assert (home / ".local" / "share" / "upscale-server" / "jobs.sqlite3").exists()
    assert {each.name for each in elsewhere.iterdir()} == {"server", "weights"}, "nothing was written here"
    facts = json.loads(done(installed / "upscale-server", "doctor", "--json", folder=elsewhere, env=env))
    assert "RealESRGAN_x4plus" in facts["model auto"] or facts["model auto"] == "fidelity-x4"
    assert not [name for name, value in facts.items() if "PROBLEM" in value]
    assert re.search(r"^weights RealESRGAN_x4plus$", "\n".join(facts), re.M)


@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_it_and_all_its_parts_can_be_had_for_other_pythons(wheels: Path, tmp_path: Path, version: str) -> None:
    (path,) = wheels.glob("upscale_server-*.whl")
    wanted = tmp_path / "wanted"
    wanted.write_text(f"upscale-server[all] @ {path.as_uri()}\n")
    found = done(UV, "pip", "compile", "--quiet", "--python-version", version, wanted, folder=tmp_path)
    names = set(re.findall(r"^([a-z0-9-]+)==", found, re.M))
    assert {"torch", "basicsr", "pypdfium2", "psycopg", "diffusers", "opentelemetry-sdk"} <= names
