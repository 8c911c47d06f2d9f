"""`upscale -`: a picture from standard input, a result to standard output."""

import io
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from server.cli import app
from tests.cli.outcome import Run, complaint, size_of, started
from tests.conftest import draw


def test_from_standard_input_to_standard_output(tmp_path: Path) -> None:
    with started("upscale", "-", "-s", "2", "--data-dir", tmp_path / "data", cwd=tmp_path) as process:
        out, told = process.communicate(draw(16, 12), timeout=100)
    assert process.returncode == 0, told
    with Image.open(io.BytesIO(out)) as image:
        assert (image.format, image.size) == ("PNG", (32, 24))
    assert told.startswith("standard output  32×24".encode())
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"data", "cache", "durations.json"}, "nothing but what the next estimate is made from"


def test_from_standard_input_to_a_file_or_folder(run: Run, tmp_path: Path) -> None:
    for output, written in (("a.webp", "a.webp"), ("out/", "out/stdin.png")):
        outcome = CliRunner().invoke(app, ["upscale", "-", "-o", output, "-s", "1"], input=draw(16, 12))
        assert outcome.exit_code == 0, outcome.output
        assert size_of(tmp_path / written)[1] == (16, 12)


def test_from_a_file_to_standard_output_in_the_format_that_is_named(run: Run, photo: Path) -> None:
    outcome = run("upscale", photo, "-o", "-", "-f", "jpg", "-s", 1)
    assert outcome.exit_code == 0
    with Image.open(io.BytesIO(outcome.stdout_bytes)) as image:
        assert image.format == "JPEG"


def test_a_failure_leaves_standard_output_empty(run: Run) -> None:
    outcome = CliRunner().invoke(app, ["upscale", "-"], input=b"no picture")
    assert "error: -: the file is not a picture" in complaint_of(outcome.stderr) and outcome.stdout_bytes == b""
    assert outcome.exit_code == 1


def complaint_of(stderr: str) -> str:
    assert stderr.count("\n") == 1
    return stderr


def test_standard_input_has_a_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_MAX_SOURCE_BYTES", "100")
    outcome = CliRunner().invoke(app, ["upscale", "-"], input=draw(64, 64))
    assert outcome.stderr == "error: -: standard input has more than 100 bytes, the most that is taken\n"


@pytest.mark.parametrize("starts_as", ["a picture", "nothing known"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(["upscale"], ["-o", "big.png"]), (["upscale"], ["-o", "big.png", "--dry-run"]), (["verify"], ["photo.png"])],
)
def test_a_pipe_without_an_end_is_not_read_to_its_end(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, before: list[str], after: list[str], starts_as: str
) -> None:
    monkeypatch.setenv("UPSCALE_MAX_SOURCE_BYTES", "100000")
    monkeypatch.setattr("server.cli.verify._MOST_BYTES", 100_000)
    pipe, written = photo.with_name("pipe.png"), 0
    os.mkfifo(pipe)

    def write() -> None:
        nonlocal written
        with suppress(BrokenPipeError), pipe.open("wb", buffering=0) as file:
            file.write(photo.read_bytes() if starts_as == "a picture" else b"\0")
            while written < 4_000_000:
                written += file.write(bytes(10_000))

    thread = threading.Thread(target=write)
    thread.start()
    said = complaint(run(*before, pipe, *after))
    thread.join()
    assert ("more than 100000 bytes" if starts_as == "a picture" else "not a picture") in said
    assert written < 1_000_000


def test_a_device_or_a_pipe_is_no_place_for_a_result(run: Run, photo: Path) -> None:
    for place in ("/dev/null", photo.with_name("pipe.png")):
        if place != "/dev/null":
            os.mkfifo(place)
        words = complaint(run("upscale", photo, "-o", place, "--overwrite"), code=2)
        assert words == f"{place} is a device or a pipe; -o - writes to standard output"


def test_json_and_the_picture_do_not_share_a_stream(run: Run, photo: Path) -> None:
    words = complaint(run("upscale", photo, "-o", "-", "--json"), code=2)
    assert words == "--json and the result can't both go to standard output"
