"""The README promises what the code has: its settings, every dialect, every file it points to. Its commands run."""

import http.server
import io
import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from PIL import Image

from server.api.dialects import DIALECTS
from server.config import PREFIX, Config
from server.job.job import TARGET_LONG_EDGE
from tests.conftest import Picture, Served
from tests.paths import PHOTO, ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_its_first_screen_says_what_it_is_for_whom_and_shows_it() -> None:
    first = README.split("\n## ")[0]
    assert len(first.splitlines()) <= 25
    assert "**For developers**" in first and "**For operators**" in first
    assert re.search(r"!\[[^]]+\]\(docs/\w+\.jpg\)", first)
    assert re.findall(r"^make (\w+)", first, re.MULTILINE) == ["demo", "test"]
    assert "**Nothing here has ever run on a GPU:**" in first


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", README))
    assert named
    assert named <= {PREFIX + name.upper() for name in Config.model_fields}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.NAME)
def test_every_dialect_is_documented(dialect: object) -> None:
    assert re.search(rf"^\| {getattr(dialect, 'NAME')}", README, re.MULTILINE | re.IGNORECASE)  # noqa: B009
    assert f"· {getattr(dialect, 'NAME')}" in README or f"dialects/  {getattr(dialect, 'NAME')}" in README  # noqa: B009


def test_every_link_and_path_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    paths = re.findall(r"`((?:server|tests|weights|benchmarks|training|demo)/[\w./]+)`", README)
    assert links and paths
    for path in (*links, *paths):
        assert (ROOT / path).exists(), path


def test_every_command_of_the_makefile_that_is_promised_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_targets_are_those_of_the_code() -> None:
    assert ", ".join(str(edge) for edge in TARGET_LONG_EDGE.values()) in README


# --- its commands, run as they stand ---------------------------------------------------------------------------------


def shell() -> list[str]:
    """What it says to type, a command each."""
    found = "".join(re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
    found = re.sub(r"(\\|\|)\n\s*", lambda at: at[1].replace("\\", "") + " ", found)
    return [line.partition("   #")[0].rstrip() for line in found.splitlines() if line]


def at(folder: Path, live: Served | None, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {
        "NO_PROXY": "*",
        "COLUMNS": "200",
        "PYTHONPATH": str(ROOT),
        "UPSCALE_AUTO_LIMIT_S": "0",  # the large network has tests of its own
        "UPSCALE_REAL_ESRGAN": "auto",
        "UPSCALE_DATA_DIR": str(live.data_dir if live else folder / "data"),
    }
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def checkout(tmp_path: Path, picture: Picture) -> Path:
    """A folder with what the commands expect beside them, but small pictures."""
    for name in ("demo/photo.jpg", "holiday/one.jpg", "holiday/two.jpg", "bricks.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(48, 32, kind="png" if path.suffix == ".png" else "jpeg"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_commands_without_a_server_do_what_they_say(checkout: Path) -> None:
    pictures = [line for line in shell() if "server upscale " in line]
    assert len(pictures) == 5
    for line in pictures:
        run = at(checkout, None, "bash", "-euc", line)
        assert run.returncode == 0, f"{line}: {run.stderr}"
    with Image.open(checkout / "big.png") as big, Image.open(checkout / "bigger" / "two.jpeg") as bigger:
        assert big.size == (192, 128)
        assert bigger.size == (4096, 2731)
    with Image.open(checkout / "large.png") as large:
        assert large.size == (192, 128)
    with Image.open(checkout / "twice.png") as twice:
        assert twice.size == (96, 64)
    (doctor,) = [line for line in shell() if "server doctor" in line]
    assert "fidelity-x4" in at(checkout, None, "bash", "-euc", doctor).stdout


def test_its_commands_for_weights_do_what_they_say(checkout: Path) -> None:
    """But for downloading: a file that nobody knows the hash of comes from a mirror of ours, and is carried."""
    listed, pull, export, *_ = [line for line in shell() if "server weights" in line]
    assert "GFPGANv1.4" in at(checkout, None, "bash", "-euc", listed).stdout
    assert " weights pull " in pull
    weights = checkout / "mirror"
    weights.mkdir()
    (weights / "RealESRNet_x4plus.pth").write_bytes(b"of no meaning")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), partial(Quiet, directory=str(weights))) as mirror:
        threading.Thread(target=mirror.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{mirror.server_address[1]}"
        command = f"UPSCALE_WEIGHTS_MIRROR={address} .venv/bin/python -m server weights pull RealESRNet_x4plus"
        run = at(checkout, None, "bash", "-euc", command)
        mirror.shutdown()
    assert run.returncode == 0, run.stderr
    carried = at(checkout, None, "bash", "-euc", export)
    assert carried.returncode == 0, carried.stderr
    other = export.replace("export", "import") + " --data-dir other"
    assert at(checkout, None, "bash", "-euc", other).returncode == 0
    assert (checkout / "other" / "weights" / "RealESRNet_x4plus.pth").read_bytes() == b"of no meaning"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_requests_are_answered_with_pictures(served: Served, checkout: Path) -> None:
    (curl,) = [line for line in shell() if " curl " in line]
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    # With the photo that it names: as an argument it would be too long for the kernel.
    photo, small = checkout / "demo" / "photo.jpg", (checkout / "demo" / "photo.jpg").read_bytes()
    shutil.copy(PHOTO, photo)
    run = at(checkout, served, "bash", "-euc", curl.replace("http://127.0.0.1:8000", served.url))
    answer = json.loads(run.stdout)["data"]
    while answer["status"] == "processing":  # on a slow machine, the wait for it ran out before
        time.sleep(0.2)
        answer = httpx.get(answer["urls"]["get"], trust_env=False, timeout=60).json()["data"]
    assert answer["status"] == "completed", answer
    (link,) = answer["outputs"]
    with Image.open(io.BytesIO(httpx.get(link, trust_env=False, timeout=60).content)) as image:
        assert max(image.size) == 2048
    photo.write_bytes(small)

    ours, vendors = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    run = at(checkout, served, sys.executable, "-c", ours.replace("http://127.0.0.1:8000", served.url))
    assert run.returncode == 0, run.stderr
    with Image.open(checkout / "big.png") as image:
        assert image.size == (192, 128)
    run = at(checkout, served, sys.executable, "-c", vendors.replace("http://127.0.0.1:8000", served.url))
    assert run.returncode == 0, run.stderr
    with Image.open(io.BytesIO(httpx.get(run.stdout.strip(), trust_env=False, timeout=60).content)) as image:
        assert image.size == (192, 128)

    (jobs,) = [line for line in shell() if "server jobs list" in line]
    listed = at(checkout, served, "bash", "-euc", jobs).stdout
    assert listed.count("wavespeed") >= 2, listed
