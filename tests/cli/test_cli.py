"""The command line, called in this process except for one real start: output, streams and exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from server import __version__
from server.config import Config
from server.db.database import deliveries, open_database
from server.db.deliveries import WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.job.job import Job, Params, State
from server.malloc import MALLOC_ENV
from tests import moving
from tests.cli.outcome import Run, complaint, lines, size_of
from tests.conftest import FAST, MakeConfig, draw
from tests.paths import ROOT

SHIPPED = ("fidelity-x4", "RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B", "realesr-animevideov3")

ENDINGS = "use .jpeg, .png, .webp, .avif, .tiff or .gif; a folder of that name ends with /"


# --- upscale --------------------------------------------------------------------------------------------------------


def test_one_picture_is_upscaled_fourfold_unless_said_otherwise(run: Run, photo: Path) -> None:
    outcome = run("upscale", photo, "-o", "large.png")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("large.png  64×48  ")
    assert size_of(Path("large.png")) == ("PNG", (64, 48))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("--scale", 2.5), (40, 30)),
        (("--scale", 0.5), (8, 6)),
        (("--size", "31x17"), (31, 17)),
        (("--megapixels", "0.0003"), (20, 15)),
        (("--scale", 2, "--wrap", "xy"), (32, 24)),
        (("--scale", 4, "--creativity", -2, "--seed", 7, "--model", "fidelity-x4"), (64, 48)),
    ],
)
def test_the_result_has_the_size_asked_for(run: Run, photo: Path, options: tuple[Any, ...], size: Any) -> None:
    assert run("upscale", photo, "-o", "out.png", *options).exit_code == 0
    assert size_of(Path("out.png")) == ("PNG", size)


def test_a_target_is_the_long_edge(run: Run, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(draw(3000, 1500))
    assert run("upscale", "large.png", "-o", "out.png", "--target", "2k").exit_code == 0
    assert size_of(tmp_path / "out.png") == ("PNG", (2048, 1024))


@pytest.mark.parametrize(
    ("output", "options", "written", "kind"),
    [
        ("out.jpg", (), "out.jpg", "JPEG"),
        ("out.JPEG", (), "out.JPEG", "JPEG"),
        ("out.webp", ("--quality", 50), "out.webp", "WEBP"),
        ("out.jfif", (), "out.jfif", "JPEG"),
        ("out.Jpe", ("--format", "jpg"), "out.Jpe", "JPEG"),
        ("out.apng", (), "out.apng", "PNG"),
        ("out.png", ("--format", "png"), "out.png", "PNG"),
        ("out.avif", ("--lossless",), "out.avif", "AVIF"),
        ("out.tif", ("--depth", 16, "--metadata", "strip"), "out.tif", "TIFF"),
        ("out.jpeg", ("--progressive", "--colour", "srgb", "--background", "#ff00ff"), "out.jpeg", "JPEG"),
        ("folder", (), "folder/photo.png", "PNG"),
        ("folder", ("--format", "webp"), "folder/photo.webp", "WEBP"),
        ("folder.jpg/", (), "folder.jpg/photo.png", "PNG"),
        ("v1.5/", (), "v1.5/photo.png", "PNG"),
        ("deep/er/out.png", (), "deep/er/out.png", "PNG"),
    ],
)
def test_where_it_goes_and_in_what_format(
    run: Run, photo: Path, tmp_path: Path, output: str, options: tuple[Any, ...], written: str, kind: str
) -> None:
    before = set(tmp_path.rglob("*"))
    outcome = run("upscale", photo, "-o", output, "--scale", 2, *options)
    assert outcome.exit_code == 0, outcome.output
    assert size_of(tmp_path / written) == (kind, (32, 24))
    made = {
        path for path in set(tmp_path.rglob("*")) - before if path.is_file() and tmp_path / "data" not in path.parents
    }
    assert made == {tmp_path / written}, "and nothing is left beside it"


def test_several_pictures_go_to_a_folder(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "[strange] name.jpg").write_bytes(draw(10, 10, "RGB", "jpeg"))
    outcome = run("upscale", photo, "[strange] name.jpg", "-o", "out", "--scale", 2)
    assert outcome.exit_code == 0
    assert "out/[strange] name.png  20×20" in outcome.stdout
    assert size_of(tmp_path / "out" / "[strange] name.png")[1] == (20, 20)
    assert size_of(tmp_path / "out" / "photo.png")[1] == (32, 24)


def test_json_is_one_object_a_picture_and_nothing_else(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes(draw(8, 8))
    outcome = run("upscale", photo, "missing.png", "other.png", "-o", "out", "--scale", 2, "--json")
    assert (outcome.exit_code, outcome.stderr) == (1, "")
    missing, first, last = lines(outcome)
    assert missing == {"source": "missing.png", "error": "No such file or directory"}, "before any network is loaded"
    assert first["source"] == str(photo)
    assert (first["result"], first["width"], first["height"]) == ("out/photo.png", 32, 24)
    assert first["model"] == "fidelity-x4" and first["seconds"] > 0
    steps = "decode plan load wrap upscale faces refine resize unwrap mask grain encode"
    assert list(first["steps"]) == steps.split()
    assert last["result"] == "out/other.png"


def test_a_picture_that_fails_does_not_stop_the_others(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "a folder").mkdir()
    outcome = run("upscale", "missing.png", "text.jpg", "a folder", photo, "-o", "out", "--scale", 2)
    assert outcome.exit_code == 1
    no_picture = "the file is not a picture of a kind this server reads: JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC"
    assert outcome.stderr.splitlines() == [
        "error: missing.png: No such file or directory",
        "error: a folder: there are no pictures in this folder",
        f"error: text.jpg: {no_picture}",
        "3 of 4 failed:",
        "  missing.png: No such file or directory",
        "  a folder: there are no pictures in this folder",
        f"  text.jpg: {no_picture}",
    ]
    assert outcome.stdout.startswith("out/photo.png  32×24")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scale", "0"), "scale must be more than 0 and at most 10"),
        (("--scale", "10.5"), "scale must be more than 0 and at most 10"),
        (("--scale", "nan"), "scale must be more than 0 and at most 10"),
        (("--target", "16k"), "target must be one of 2k, 4k, 8k"),
        (("--creativity", "2.1"), "creativity must be between -2 and 2"),
        (("--quality", "0"), "quality must be between 1 and 100"),
        (("--format", "bmp"), "format must be one of jpeg, png, webp, avif, tiff, gif"),
        (("--format", "jpeg", "--lossless"), "jpeg is always lossy; for lossless use png, webp, avif or tiff"),
        (("--progressive",), "png can't be progressive; jpeg can"),
        (("--format", "webp", "--depth", "16"), "webp holds at most 8 bits per sample; use png or tiff"),
        (("--metadata", "some"), "metadata must be one of keep, copyright, strip"),
        (("--colour", "cmyk"), "colour must be one of keep, srgb"),
        (("--scale", "2", "--target", "4k"), "give exactly one of scale, target, size and megapixels"),
        (("--wrap", "z"), "wrap must be one of none, x, y, xy"),
        (("--size", "0x5"), "size must be two whole numbers of at least 1"),
        (("--device", "tpu"), "there is no device 'tpu': use auto, cpu, cuda or cuda:N"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    run: Run, photo: Path, options: tuple[str, ...], words: str
) -> None:
    assert complaint(run("upscale", photo, "-o", "out.png", *options)) == words
    assert not Path("out.png").exists()


def test_an_unknown_model_is_refused_once_and_not_for_every_picture(run: Run, photo: Path) -> None:
    photo.with_name("other.png").write_bytes(photo.read_bytes())
    outcome = run("upscale", photo, photo.with_name("other.png"), "-o", "out", "--model", "best-x8")
    assert complaint(outcome) == f"there is no model 'best-x8'; installed are {', '.join(SHIPPED)}"


def test_a_path_that_is_no_checkpoint_is_refused(run: Run, photo: Path) -> None:
    assert complaint(run("upscale", photo, "-o", "out.png", "--model", "no.pth")) == "there is no file no.pth"
    words = complaint(run("upscale", photo, "-o", "out.png", "--model", photo))
    assert words == "photo.png is not a checkpoint, or a damaged one"


def test_a_checkpoint_can_be_named_by_its_path(run: Run, photo: Path) -> None:
    bundled = ROOT / "weights" / "bundled" / "fidelity-x4.safetensors"
    (line,) = lines(run("upscale", photo, "-o", "out.png", "--model", bundled, "--json"))
    assert line["model"] == "fidelity-x4"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "photo.png"), "the result of photo.png would overwrite photo.png"),
        (("-o", "."), "the result of photo.png would overwrite photo.png"),
        (("link.jpg", "-o", "out"), None),
        (
            ("photo.jpg", "-o", "out"),
            "photo.png and photo.jpg would both be written to out/photo.png; nothing was done",
        ),
        (("link.jpg", "-o", "out.png"), "out.png is the name of one picture; several need a folder, such as out/"),
        (("-o", "res.bmp"), f"a result can't be written as .bmp: {ENDINGS}"),
        (("-o", "res.heic"), f"a result can't be written as .heic: {ENDINGS}"),
        (("-o", "anim.mp4"), f"a result can't be written as .mp4: {ENDINGS}"),
        (("-o", "res.jxl", "--format", "png"), f"a result can't be written as .jxl: {ENDINGS}"),
        (("-o", "v1.5"), f"a result can't be written as .5: {ENDINGS}"),
        (("-o", "q.jpg", "--format", "png"), "q.jpg is jpeg by its name, but --format is png"),
        (("-o", "out.png", "--quality", "90"), "--quality has no effect for png, only for jpeg, webp and avif"),
        (("-o", "out/", "--quality", "90"), "--quality has no effect for png, only for jpeg, webp and avif"),
        (
            ("-o", "out.webp", "--quality", "90", "--lossless"),
            "--quality has no effect with --lossless; give one of them",
        ),
        (
            ("-o", "out.webp", "--background", "#000000"),
            "--background has no effect for webp, only for jpeg, which has no transparency",
        ),
        (("photo.jpg", "-o", "taken"), "taken is a file; several pictures need a folder"),
        (("-o", "out.png", "--background", "white"), "--background must be #rrggbb, for example #ffffff, not 'white'"),
        (("-o", "out.png", "--size", "12"), "--size must be WIDTHxHEIGHT, for example 1920x1080, not '12'"),
        (("-o", "out.png", "--face-only", "me"), "--face-only must be all, largest, or numbers such as 0,2, not 'me'"),
    ],
)
def test_misuse_is_told_before_anything_is_done(
    run: Run, photo: Path, tmp_path: Path, arguments: tuple[str, ...], words: str | None
) -> None:
    for name in ("photo.jpg", "link.jpg", "taken"):
        (tmp_path / name).write_bytes(draw(8, 8, "RGB", "jpeg"))
    outcome = run("upscale", "photo.png", *arguments)
    if words is None:
        assert outcome.exit_code == 0
    else:
        assert complaint(outcome, code=2) == words
        assert not (tmp_path / "out").exists()
    assert photo.read_bytes() == draw(16, 12)


@pytest.mark.parametrize("tile", ["1", "68", "100"])
def test_a_tile_too_small_for_its_halo_is_made_larger(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    """A halo of 34 at both sides would leave nothing of 68 pixels."""
    monkeypatch.setenv("UPSCALE_TILE", tile)
    photo.write_bytes(draw(120, 20))
    assert run("upscale", photo, "-o", "out.png", "--scale", 2).exit_code == 0
    assert size_of(Path("out.png"))[1] == (240, 40)


def test_words_with_brackets_come_out_as_they_are(run: Run, photo: Path) -> None:
    """The printing library would interpret these as colours, or as wrong colours."""
    assert complaint(run("upscale", photo, "-o", "o.png", "--model", "[red]")) == (
        f"there is no model '[red]'; installed are {', '.join(SHIPPED)}"
    )
    outcome = run("upscale", "[bold]a.png", "[/b].png", "-o", "out")
    assert outcome.stderr.splitlines() == [
        "error: [bold]a.png: No such file or directory",
        "error: [/b].png: No such file or directory",
        "2 of 2 failed:",
        "  [bold]a.png: No such file or directory",
        "  [/b].png: No such file or directory",
    ]


def test_a_bad_setting_is_one_line_too(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_PORT", "http")
    assert complaint(run("upscale", photo, "-o", "out.png")).startswith("UPSCALE_PORT='http': ")


@pytest.mark.slow
def test_the_installed_command_starts_over_with_settings_for_networks_and_works(photo: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALE_")} | FAST
    env = {name: value for name, value in env.items() if name not in MALLOC_ENV}
    command = [sys.executable, "-m", "server", "upscale", str(photo), "-o", str(tmp_path / "out.webp"), "--json"]
    done = subprocess.run(
        [*command, "--device", "cpu"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["width"], line["height"]) == (64, 48)
    assert size_of(tmp_path / "out.webp") == ("WEBP", (64, 48))


def test_an_existing_folder_is_a_folder_whatever_its_name(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "results.jpg").mkdir()
    assert run("upscale", photo, "-o", "results.jpg", "--scale", 1).exit_code == 0
    assert size_of(tmp_path / "results.jpg" / "photo.png")[0] == "PNG"


def test_a_name_in_no_encoding_is_one_line_and_the_rest_is_done(photo: Path, tmp_path: Path) -> None:
    """Also on a terminal with ASCII only."""
    odd, bad = tmp_path / "odd\udcff\n.png", tmp_path / "bad\udcfe.png"
    odd.write_bytes(photo.read_bytes())
    bad.write_text("no picture")
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALE_")} | FAST
    env |= {**MALLOC_ENV, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "200"}
    command = [sys.executable, "-m", "server", "upscale", str(odd), str(bad), "missing.png", str(photo)]
    done = subprocess.run(
        [
            *command,
            "-o",
            str(tmp_path / "out"),
            "--scale",
            "1",
            "--device",
            "cpu",
            "--data-dir",
            str(tmp_path / "data"),
        ],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    first, last = done.stdout.splitlines()
    assert "odd\\xff\\n.png  16" in first and "out/photo.png  16" in last
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2 and "missing.png: " in lines[0] and "bad\\xfe.png: " in lines[1]
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / odd.name).exists() and len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("length", [200, 247, 250, 255])
def test_a_result_may_have_the_longest_name_that_there_is(run: Run, photo: Path, tmp_path: Path, length: int) -> None:
    name = "n" * (length - 4) + ".png"
    assert run("upscale", photo, "-o", name, "--scale", 1).exit_code == 0
    assert size_of(tmp_path / name)[0] == "PNG"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_name_that_is_too_long_is_told_before_the_work(run: Run, photo: Path, tmp_path: Path) -> None:
    outcome = run("upscale", photo, "-o", "n" * 252 + ".png", "--scale", 1)
    assert outcome.exit_code == 1 and outcome.stderr.endswith("File name too long\n")


def test_a_source_that_is_missing_or_bad_leaves_no_new_folder(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for source in ("missing.png", "text.png"):
        assert run("upscale", source, "-o", "new/er/", "--scale", 1).exit_code == 1
        assert not (tmp_path / "new").exists()
    assert run("upscale", "missing.png", photo, "-o", "new/er/", "--scale", 1).exit_code == 1
    assert size_of(tmp_path / "new" / "er" / "photo.png")[0] == "PNG"


def test_the_page_that_was_taken_is_told(run: Run, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (16, 12), colour) for colour in ("red", "green", "blue")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    outcome = run("upscale", "a.tif", "-o", "out.png", "--scale", 1)
    assert outcome.exit_code == 0 and "note: a.tif: page 1 of 3\n" in outcome.stderr
    (line,) = lines(run("upscale", "a.tif", "-o", "out.png", "--scale", 1, "--json", "--overwrite"))
    assert "page 1 of 3" in line["notes"]


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(config: MakeConfig) -> tuple[Config, Jobs, list[Job]]:
    """A data folder with a queued, a running and a failed job, the oldest first."""
    made = config()
    jobs = Jobs(open_database(made.database), lease_s=made.lease_s)
    common: dict[str, Any] = {"dialect": "native", "owner": "local", "source_key": "0" * 32}
    waiting = Job(**common, params=Params(target="4k", format="webp"), created_at=2.0)
    running = Job(**common, params=Params(scale=2.5), created_at=1.0)
    failed = Job(
        **common | {"dialect": "wavespeed"},
        params=Params(size=(640, 480), format="jpeg"),
        created_at=3.0,
        state=State.FAILED,
        finished_at=4.0,
        error_code="source_unreadable",
        error_message="not a [picture] of ours",
    )
    for job in (running, waiting, failed):
        jobs.enqueue(job)
    jobs.claim("a")
    return made, jobs, [running, waiting, failed]


def test_jobs_are_listed_newest_first(run: Run, prepared: tuple[Config, Jobs, list[Job]]) -> None:
    config, _, jobs = prepared
    outcome = run("jobs", "list", "--data-dir", config.data_dir)
    assert outcome.exit_code == 0
    rows = outcome.stdout.splitlines()[1:]
    assert [row.split()[:3] for row in rows] == [
        [jobs[2].id, "wavespeed", "failed"],
        [jobs[1].id, "native", "queued"],
        [jobs[0].id, "native", "running"],
    ]
    assert ["640x480 jpeg" in rows[0], "4k webp" in rows[1], "×2.5 png" in rows[2]] == [True] * 3
    assert "not a [picture] of ours" in rows[0]


def test_ids_are_whole_however_narrow_the_terminal(
    run: Run, prepared: tuple[Config, Jobs, list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, jobs = prepared
    monkeypatch.setenv("COLUMNS", "60")
    stdout = run("jobs", "list", "--data-dir", config.data_dir).stdout
    assert all(job.id in stdout for job in jobs)


def test_jobs_are_listed_by_state_and_as_json(run: Run, prepared: tuple[Config, Jobs, list[Job]]) -> None:
    config, _, jobs = prepared
    everything = json.loads(run("jobs", "list", "--json", "--data-dir", config.data_dir).stdout)
    assert [job["id"] for job in everything] == [job.id for job in reversed(jobs)]
    queued = json.loads(run("jobs", "list", "--state", "queued", "--json", "--data-dir", config.data_dir).stdout)
    assert [(job["id"], job["state"]) for job in queued] == [(jobs[1].id, "queued")]
    newest = json.loads(run("jobs", "list", "--limit", 1, "--json", "--data-dir", config.data_dir).stdout)
    assert [job["id"] for job in newest] == [jobs[2].id]


def test_one_job_is_shown_in_full(run: Run, prepared: tuple[Config, Jobs, list[Job]]) -> None:
    config, _, jobs = prepared
    shown = json.loads(run("jobs", "show", jobs[2].id, "--data-dir", config.data_dir).stdout)
    assert shown["error_message"] == "not a [picture] of ours"
    assert shown["params"]["size"] == [640, 480]


def test_what_was_given_up_is_listed_and_sent_again(run: Run, prepared: tuple[Config, Jobs, list[Job]]) -> None:
    config, _, (running, _, failed) = prepared
    engine = open_database(config.database)
    owed = Delivery(job_id=failed.id, kind=WEBHOOK, url="https://example.com/[hook]", base_url="")
    with engine.begin() as db:
        db.execute(deliveries.insert().values(**vars(owed)))
    assert lines(run("jobs", "undelivered", "--json", "--data-dir", config.data_dir)) == [[]]
    Deliveries(engine).give_up(owed, "its server answered 500")
    assert lines(run("jobs", "undelivered", "--json", "--data-dir", config.data_dir))[0][0]["job_id"] == failed.id
    shown = " ".join(run("jobs", "undelivered", "--data-dir", config.data_dir).stdout.split())
    assert failed.id in shown and "webhook" in shown
    words = complaint(run("jobs", "redeliver", running.id, "--data-dir", config.data_dir))
    assert words == f"job {running.id} has no failed deliveries"
    assert run("jobs", "redeliver", failed.id, "--data-dir", config.data_dir).stdout == "1 to be sent again\n"
    assert Deliveries(engine).counts() == {"pending": 1}


def test_the_address_of_what_was_given_up_is_whole_however_narrow_the_terminal(
    run: Run, prepared: tuple[Config, Jobs, list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, (_, _, failed) = prepared
    engine = open_database(config.database)
    url = "https://example.com/[hook]/" + "a-long-path/" * 20 + "?token=0123456789"
    owed = Delivery(job_id=failed.id, kind=WEBHOOK, url=url, base_url="")
    with engine.begin() as db:
        db.execute(deliveries.insert().values(**vars(owed)))
    Deliveries(engine).give_up(owed, "its server answered 500")
    for columns in ("80", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        shown = run("jobs", "undelivered", "--data-dir", config.data_dir).stdout.splitlines()
        assert [line.strip() for line in shown[1:]] == ["its server answered 500", url]
        assert shown[0].startswith(f"{failed.id}  webhook  0 tries, the last ")


def test_a_table_that_is_piped_has_every_cell_whole(
    run: Run, prepared: tuple[Config, Jobs, list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, jobs = prepared
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("jobs", "list", "--data-dir", config.data_dir).stdout.splitlines()
    assert len(shown) == 1 + len(jobs), "a line each"
    assert any("not a [picture] of ours" in line and jobs[2].id in line for line in shown)


def test_jobs_are_cancelled_at_once_or_soon_or_not_at_all(run: Run, prepared: tuple[Config, Jobs, list[Job]]) -> None:
    config, table, (running, waiting, failed) = prepared

    def cancel(job: Job) -> Result:
        return run("jobs", "cancel", job.id, "--data-dir", config.data_dir)

    assert cancel(waiting).stdout == "cancelled\n"
    assert table.get(waiting.id).state is State.CANCELLED
    assert cancel(waiting).stdout == "cancelled\n", "again is fine"
    assert cancel(running).stdout == "cancelling\n"
    assert table.get(running.id).cancel_requested
    assert complaint(cancel(failed)) == f"job {failed.id} has already ended: it failed"


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_a_job_that_is_not_there_is_one_line(run: Run, prepared: tuple[Config, Jobs, list[Job]], command: str) -> None:
    outcome = run("jobs", command, "[b]nothing", "--data-dir", prepared[0].data_dir)
    assert complaint(outcome) == "there is no job [b]nothing"


def test_where_no_server_has_run_there_are_no_jobs(run: Run, tmp_path: Path) -> None:
    outcome = run("jobs", "list", "--data-dir", tmp_path / "nowhere")
    assert complaint(outcome) == f"there are no jobs in {tmp_path}/nowhere: no server has run there"
    assert not (tmp_path / "nowhere").exists(), "and looking makes none"


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_says_what_there_is(run: Run, tmp_path: Path) -> None:
    outcome = run("doctor", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (facts,) = lines(outcome)
    assert facts["upscale-server"] == __version__
    assert facts["device"].endswith(("float32", "bfloat16")) and "(cpu)" in facts["device"]
    assert facts["weights fidelity-x4"].startswith("bundled, verified, ")
    assert facts["weights RealESRGAN_x4plus"] == "package, fp16, verified, 713ee713b035…"
    assert facts["speed"].startswith("not measured yet")
    assert facts["model auto"] == "fidelity-x4"
    assert facts["data folder"].startswith(f"{tmp_path}/data, ") and facts["data folder"].endswith(" GB free")
    assert all(name in facts for name in ("Python", "system", "torch", "libvips", "database"))
    assert not (tmp_path / "data").exists()


def test_doctor_is_a_page_to_paste(run: Run) -> None:
    outcome = run("doctor")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert re.search(rf"upscale-server +{re.escape(__version__)}", outcome.stdout.replace("│", ""))
    assert "\x1b" not in outcome.stdout


def test_doctor_names_problems_and_goes_on(run: Run, tmp_path: Path) -> None:
    installed = tmp_path / "data" / "weights"
    installed.mkdir(parents=True)
    (installed / "realesr-animevideov3.pth").write_bytes(b"damaged")
    (facts,) = lines(run("doctor", "--json", "--device", "cuda:63"))
    assert facts["device"].startswith("PROBLEM: there is no device 'cuda:63'")
    assert facts["weights realesr-animevideov3"].startswith(
        "PROBLEM: the weights of 'realesr-animevideov3' are damaged"
    )


def test_doctor_does_not_show_the_database_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_DATABASE_URL", "postgresql://user:secret@host/jobs")
    (facts,) = lines(run("doctor", "--json"))
    assert "host/jobs" in facts["database"] and "secret" not in facts["database"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "UPSCALE_DATABASE_URL is not the URL of a database that this server can use; it looks like "),
        ("mysql://user:secret@host/jobs", "UPSCALE_DATABASE_URL is not the URL of a database"),
        ("postgresql://user:secret@127.0.0.1:x/jobs", "UPSCALE_DATABASE_URL is not the URL of a database"),
        ("sqlite:////dev/null/jobs.sqlite3", "the folder /dev/null can't be made: "),
        ("sqlite:////dev/null", "the database sqlite:////dev/null can't be used: "),
    ],
)
def test_a_database_that_can_not_be_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("UPSCALE_DATABASE_URL", url)
    said = complaint(run("jobs", "list"))
    assert said.startswith(words) and "secret" not in said


def test_a_database_of_a_later_version_is_one_line(run: Run, prepared: tuple[Config, Jobs, list[Job]]) -> None:
    config, _, _ = prepared
    with open_database(config.database).begin() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    said = complaint(run("jobs", "list", "--data-dir", config.data_dir))
    assert "is of another version of this server" in said


def test_a_server_for_others_does_not_start_without_keys(run: Run) -> None:
    words = complaint(run("serve", "--host", "0.0.0.0", "--port", 0))
    assert words == "refusing to listen on 0.0.0.0 without API keys: make one with `keys create`, or use 127.0.0.1"


def test_animations_are_taken_whole_or_their_first_frame_alone(run: Run, tmp_path: Path) -> None:
    parts = [moving.Part(0, 0, moving.numbers(20, 16, seed), hundredths=7) for seed in range(3)]
    (tmp_path / "a.gif").write_bytes(moving.gif((20, 16), parts))
    for name, only, frames in (("b.gif", "keep", 3), ("c.gif", "first", 1)):
        result = run("upscale", "a.gif", "-o", name, "--scale", 2, "--animation", only, "--json")
        said = json.loads(result.stdout)
        assert result.exit_code == 0 and (said.get("frames", 1), said.get("duration_s")) == (
            frames,
            0.21 if frames > 1 else None,
        )
        with Image.open(tmp_path / name) as image:
            assert getattr(image, "n_frames", 1) == frames and image.size == (40, 32)
    refused = run("upscale", "a.gif", "-o", "d.jpeg", "--scale", 2)
    assert refused.exit_code == 1 and "jpeg can't hold an animation" in refused.output
