"""Ctrl-C: what is done is said, and nothing half-written stays."""

import signal
from pathlib import Path

from tests.cli.outcome import started
from tests.conftest import draw


def test_ctrl_c_says_what_is_done_and_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(draw(8, 8))
    (tmp_path / "in/b.png").write_bytes(draw(6000, 6000))  # a minute and more
    options = ("--data-dir", tmp_path / "data", "--model", "fidelity-x4", "-s", "3")
    with started("upscale", "in", "-o", "out", *options, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline().startswith(b"out/a.png")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == b"interrupted: 1 of 2 done; --skip-existing goes on with the rest\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
