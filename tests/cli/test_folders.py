"""`upscale FOLDER`: what is taken, where results go, what becomes of results that exist, and the summary."""

import os
from pathlib import Path

import pytest

from tests.cli.outcome import Run, complaint, lines, size_of
from tests.conftest import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a picture at the top and one in a sub-folder."""
    for name in ("in/a.png", "in/deep/er/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(draw(16, 12))
    return tmp_path / "in"


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_tree_is_kept(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = run("upscale", folder, "-o", "out", "-s", 2)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert tree(tmp_path / "out") == {"a.png", "deep/er/b.png"}
    assert size_of(tmp_path / "out/deep/er/b.png")[1] == (32, 24)


def test_off_a_terminal_each_line_says_how_far_it_is(run: Run, folder: Path) -> None:
    first, last = run("upscale", folder, "-o", "out", "-s", 1).stdout.splitlines()
    assert "  1 of 2, about 0:0" in first and first.endswith(" left")
    assert last.endswith("  2 of 2")


def test_other_files_hidden_names_and_the_output_are_left_out(run: Run, folder: Path) -> None:
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.png").write_bytes(b"what macOS leaves")
    (folder / ".trash").mkdir()
    (folder / ".trash/c.png").write_bytes(draw(8, 8))
    for _ in range(2):
        assert run("upscale", folder, "-o", folder / "out", "-s", 1, "--overwrite").exit_code == 0
        assert tree(folder / "out") == {"a.png", "deep/er/b.png"}


def test_links_to_folders_are_not_followed(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert run("upscale", folder, "-o", "out", "-s", 1).exit_code == 0
    assert tree(tmp_path / "out") == {"a.png", "deep/er/b.png"}


def test_names_that_differ_in_their_ending_alone_keep_it(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "a.jpg").write_bytes(draw(8, 8, "RGB", "jpeg"))
    (folder / "a.jpg.bmp").write_bytes(draw(8, 8, "RGB", "bmp"))
    assert run("upscale", folder, "-o", "out", "-s", 1).exit_code == 0
    assert tree(tmp_path / "out") == {"a.png.png", "a.jpg.png", "a.jpg.bmp.png", "deep/er/b.png"}


def test_two_folders_may_not_write_the_same_result(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").write_bytes(draw(8, 8))
    words = complaint(run("upscale", "in", "other", "-o", "out"), code=2)
    assert words.startswith("in/a.png and other/a.png would both be written to out/a.png")


def test_a_result_that_exists_is_not_replaced_unless_told(run: Run, folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "out/a.png"
    made.parent.mkdir()
    made.write_bytes(b"mine")
    words = complaint(run("upscale", folder, "-o", "out"), code=2)
    assert words == (
        "1 of 2 results exist already, the first is out/a.png; nothing was done: "
        "--overwrite replaces, --skip-existing keeps what exists"
    )
    assert tree(tmp_path / "out") == {"a.png"}
    skipped = run("upscale", folder, "-o", "out", "-s", 1, "--skip-existing")
    assert skipped.exit_code == 0 and made.read_bytes() == b"mine"
    assert skipped.stderr == "1 of 2 skipped: their results exist already\n"
    assert tree(tmp_path / "out") == {"a.png", "deep/er/b.png"}
    assert run("upscale", folder, "-o", "out", "-s", 1, "--overwrite").exit_code == 0
    assert size_of(made)[0] == "PNG"


def test_one_result_that_exists_is_not_replaced_either(run: Run, photo: Path) -> None:
    Path("out.png").write_bytes(b"mine")
    words = complaint(run("upscale", photo, "-o", "out.png"), code=2)
    assert words == "out.png exists already: --overwrite replaces, --skip-existing keeps what exists"
    assert Path("out.png").read_bytes() == b"mine"


def test_a_suffix_is_added_to_each_name(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("upscale", folder, "-o", "out", "-s", 1, "--suffix", "_x1", "-f", "jpg").exit_code == 0
    assert tree(tmp_path / "out") == {"a_x1.jpeg", "deep/er/b_x1.jpeg"}


def test_with_a_suffix_alone_results_go_beside_the_pictures_and_are_not_taken_again(run: Run, folder: Path) -> None:
    everything = {"a.png", "a_x1.png", "deep/er/b.png", "deep/er/b_x1.png"}
    assert run("upscale", folder, "-s", 1, "--suffix", "_x1").exit_code == 0
    assert tree(folder) == everything
    again = run("upscale", folder, "-s", 1, "--suffix", "_x1", "--skip-existing")
    assert again.stderr == "2 of 2 skipped: their results exist already\n" and tree(folder) == everything


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the pictures or folders to upscale; - is standard input"),
        (("in",), "say where results go: -o with a file or folder, or --suffix to write them beside the pictures"),
        (("in", "-o", "out", "--skip-existing", "--overwrite"), "--skip-existing and --overwrite exclude each other"),
        (("in", "-o", "out", "--suffix", "/x"), "--suffix must be a part of a file name, for example _x4, not '/x'"),
        (("in/a.png", "-o", "a.png", "--suffix", "_x"), "--suffix has no effect if -o names the result"),
        (("in", "-o", "out.png"), "out.png is the name of one picture; several need a folder, such as out/"),
        (("in", "-o", "-"), "standard output takes the result of one picture"),
    ],
)
def test_options_that_make_no_sense_together(run: Run, folder: Path, arguments: tuple[str, ...], words: str) -> None:
    assert complaint(run("upscale", *arguments), code=2) == words


def test_pictures_can_be_named_as_in_realesrgan_ncnn_vulkan(run: Run, folder: Path, tmp_path: Path) -> None:
    options = ("-i", folder, "-o", "out", "-s", 2, "-n", "fidelity-x4", "-f", "webp")
    assert run("upscale", *options).exit_code == 0
    assert tree(tmp_path / "out") == {"a.webp", "deep/er/b.webp"}


def test_a_failure_does_not_end_the_rest_and_the_summary_names_it(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "damaged.png").write_bytes(draw(16, 12)[:60])
    outcome = run("upscale", folder, "-o", "out", "-s", 1)
    assert outcome.exit_code == 1
    assert tree(tmp_path / "out") == {"a.png", "deep/er/b.png"}
    assert outcome.stderr.splitlines()[-2:] == [
        "1 of 3 failed:",
        f"  {folder}/damaged.png: the picture file is damaged",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_can_not_be_read_is_a_failure(run: Run, folder: Path) -> None:
    (folder / "deep").chmod(0)
    outcome = run("upscale", folder, "-o", "out", "-s", 1)
    (folder / "deep").chmod(0o700)
    assert outcome.exit_code == 1 and f"{folder}/deep: Permission denied" in outcome.stderr


def test_a_dry_run_names_results_sizes_and_problems_and_writes_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "text.jpg").write_text("no picture")
    before = tree(tmp_path)
    outcome = run("upscale", folder, "missing.png", "-o", "out", "--dry-run")
    assert outcome.exit_code == 1 and tree(tmp_path) == before
    assert outcome.stdout.splitlines() == [
        f"{folder}/a.png → out/a.png  16×12 → 64×48",
        f"{folder}/deep/er/b.png → out/deep/er/b.png  16×12 → 64×48",
    ]
    assert "2 of 4 failed:" in outcome.stderr.splitlines()
    first, *_ = lines(run("upscale", folder / "a.png", "-o", "b.webp", "--target", "2k", "--dry-run", "--json"))
    assert first == {
        "source": f"{folder}/a.png",
        "result": "b.webp",
        "source_size": [16, 12],
        "result_size": [2048, 1536],
    }


def test_a_dry_run_tells_that_results_exist(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    outcome = run("upscale", folder / "a.png", "-o", "a.png", "--dry-run")
    assert outcome.exit_code == 2 and "a.png exists already" in outcome.stderr
    assert "16×12 → 64×48" in outcome.stdout
