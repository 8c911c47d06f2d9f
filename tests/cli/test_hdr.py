"""The command line says that a picture is HDR, keeps it, and refuses what can't hold it."""

import json
from pathlib import Path

import pytest

from server.images.read.open import read_header
from tests import hdr
from tests.cli.outcome import Run, complaint


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    path = tmp_path / "phone.jpg"
    path.write_bytes(hdr.by_libultrahdr(hdr.light(1, 24, 32)))
    return path


def test_inspect_and_dry_runs_say_it(run: Run, phone: Path) -> None:
    assert json.loads(run("inspect", phone, "--json").output)["hdr"] == "gain map"
    asked = "upscale", phone, "-o", "result.jpg", "--dry-run"
    assert "HDR (gain map)" in run(*asked).output
    other = "upscale", phone, "-o", "result.png", "--dry-run"
    assert run(*other, "--hdr", "tone-map").exit_code == 0
    refused = run(*other)
    assert refused.exit_code == 1 and "use jpeg" in refused.stderr


def test_hdr_is_kept_unless_it_is_not_wanted(run: Run, phone: Path) -> None:
    assert "use jpeg" in complaint(run("upscale", phone, "-o", "result.webp"))
    for wanted, left in (("keep", "gain map"), ("tone-map", None)):
        outcome = run("upscale", phone, "-o", f"{wanted}.jpg", "--scale", "2", "--hdr", wanted)
        assert outcome.exit_code == 0, outcome.output
        assert ("gain map (HDR) is not in the result" in outcome.stderr) == (left is None)
        assert read_header(Path(f"{wanted}.jpg").read_bytes(), 10**6).hdr == left
