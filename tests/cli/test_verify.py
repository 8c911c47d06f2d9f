"""`--certificate` and `verify`: the files beside a result, and what a false one is found by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.outcome import Run, complaint, lines
from tests.conftest import draw


@pytest.fixture
def certified(run: Run, photo: Path, tmp_path: Path) -> Path:
    """A result with its certificate beside it."""
    outcome = run("upscale", photo, "-o", "big.png", "--certificate")
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in tmp_path.glob("big*")} == {"big.png", "big.certificate.json", "big.certificate.png"}
    return tmp_path / "big.png"


def test_a_true_certificate_is_right(run: Run, photo: Path, certified: Path) -> None:
    facts = json.loads(Path("big.certificate.json").read_text())
    assert facts["source"]["width"] == 16 and facts["result"] == {"width": 64, "height": 48}
    outcome = run("verify", photo, certified, "--certificate", "big.certificate.json", "--heat-map", "again.png")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "the certificate is right" in outcome.stdout and "99th percentile" in outcome.stdout
    assert Path("again.png").read_bytes() == Path("big.certificate.png").read_bytes()
    outcome = run("verify", photo, certified, "--certificate", "big.certificate.json", "--json")
    assert json.loads(outcome.stdout) == {"certificate": facts, "checked": True, "problems": [], "notes": []}


def test_without_a_certificate_the_figures_are_only_computed(run: Run, photo: Path, certified: Path) -> None:
    outcome = run("verify", photo, certified)
    assert outcome.exit_code == 0 and "there is no certificate to compare with" in outcome.stdout
    outcome = run("verify", photo, certified, "--json")
    assert json.loads(outcome.stdout)["checked"] is False


def test_a_result_that_was_changed_and_another_source_are_found(run: Run, photo: Path, certified: Path) -> None:
    with Image.open(certified) as opened:
        pixels = np.array(opened)
    pixels[:8, :8] = 255 - pixels[:8, :8]
    Image.fromarray(pixels).save("changed.png")
    outcome = run("verify", photo, "changed.png", "--certificate", "big.certificate.json")
    assert outcome.exit_code == 1 and "difference.max: the certificate says" in outcome.stdout
    Path("other.png").write_bytes(draw(16, 13))
    outcome = run("verify", "other.png", certified, "--certificate", "big.certificate.json")
    assert outcome.exit_code == 1 and "source.sha256: the certificate says" in outcome.stdout
    assert "the pictures have other shapes" in outcome.stdout


def test_a_certificate_that_claims_too_little_is_found(run: Run, photo: Path, certified: Path) -> None:
    facts = json.loads(Path("big.certificate.json").read_text())
    facts["difference"]["mean"] /= 2
    del facts["drift"]
    Path("false.json").write_text(json.dumps(facts))
    outcome = run("verify", photo, certified, "--certificate", "false.json", "--json")
    problems = json.loads(outcome.stdout)["problems"]
    assert outcome.exit_code == 1 and {each.partition(":")[0] for each in problems} >= {"difference.mean", "drift.mean"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9}', "\xff", "[" * 100_000])
def test_what_is_no_certificate_is_one_error(run: Run, photo: Path, certified: Path, text: str) -> None:
    Path("false.json").write_bytes(text.encode("latin-1"))
    assert "certificate" in complaint(run("verify", photo, certified, "--certificate", "false.json"))


def test_a_heat_map_that_can_not_be_written_is_one_error(run: Run, photo: Path, certified: Path) -> None:
    words = complaint(run("verify", photo, certified, "--heat-map", photo / "map.png"))
    assert words == f"{photo}: File exists"


def test_files_that_are_no_pictures_or_not_there_are_one_error(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert "not a picture" in complaint(run("verify", photo, "text.png"))
    assert complaint(run("verify", "gone.png", photo)) == "gone.png: No such file or directory"


def test_a_signed_result_carries_its_certificate(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("signing-chain", "chain").exit_code == 0
    monkeypatch.setenv("UPSCALE_C2PA_CERT", "chain/certificate.pem")
    monkeypatch.setenv("UPSCALE_C2PA_KEY", "chain/key.pem")
    for output in ("big.png", "big.jpg", "big.webp"):
        assert run("upscale", photo, "-o", output, "--certificate", "--overwrite").exit_code == 0
        outcome = run("verify", photo, output)
        assert outcome.exit_code == 0 and "the certificate is right" in outcome.stdout, outcome.stdout
    data = bytearray((tmp_path / "big.jpg").read_bytes())
    data[-20] ^= 1
    (tmp_path / "big.jpg").write_bytes(data)
    outcome = run("verify", photo, "big.jpg")
    assert outcome.exit_code == 1 and "the signature is not valid" in outcome.stdout


def test_a_folder_gets_a_certificate_for_each_result_and_takes_none_for_a_picture(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(draw(8, 6))
    outcome = run("upscale", "in", "--suffix", "_big", "-s", 2, "--certificate", "--json")
    assert [line["certificate"]["result"] for line in lines(outcome)] == [{"width": 16, "height": 12}] * 2
    there = {path.name for path in (tmp_path / "in").iterdir()}
    assert {"a_big.png", "a_big.certificate.png", "b_big.certificate.json"} <= there
    again = run("upscale", "in", "--suffix", "_big", "-s", 2, "--certificate", "--overwrite", "--json")
    assert len(lines(again)) == 2 and {path.name for path in (tmp_path / "in").iterdir()} == there


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("-o", "-"), 2, "a certificate is written beside the result"),
        (("-o", "out.png", "--sweep"), 1, "a sheet has no certificate"),
    ],
)
def test_where_a_certificate_makes_no_sense_it_is_refused(
    run: Run, photo: Path, options: tuple[Any, ...], code: int, said: str
) -> None:
    assert said in complaint(run("upscale", photo, "--certificate", *options), code)


def test_files_with_pages_have_none(run: Run, tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 8), level) for level in (10, 200)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    outcome = run("upscale", "pages.tif", "-o", "out.tif", "--certificate")
    assert outcome.exit_code == 1 and "this one has pages" in outcome.stderr
    assert run("upscale", "pages.tif", "-o", "out.png", "--certificate").exit_code == 0
