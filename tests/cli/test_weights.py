"""`weights` on the command line: output and exit codes."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.networks import save, srvgg
from tests.outbound.publisher import Publisher, publishing

CONFIG, NET = b'{"_class_name": "ControlNetModel"}', b"weights" * 10_000

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "weights"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run("list")`, with a data folder of its own."""
    for name in [name for name in os.environ if name.startswith("UPSCALE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UPSCALE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["weights", *(str(each) for each in arguments)])


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Has the only entry without known hashes: the tests don't have the true content of others."""
    with publishing() as publisher:
        monkeypatch.setenv("UPSCALE_WEIGHTS_MIRROR", publisher.url)
        publisher.files["/sdxl-controlnet-tile/config.json"] = CONFIG
        publisher.files["/sdxl-controlnet-tile/diffusion_pytorch_model.safetensors"] = NET
        publisher.files["/parsing_parsenet.pth"] = b"something else"
        yield publisher


def complaint(outcome: Result, code: int = 1) -> str:
    assert outcome.exit_code == code, outcome.output
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 1, outcome.stderr
    return outcome.stderr.removeprefix("error: ").removesuffix("\n")


def states(run: Run) -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads(run("list", "--json").stdout)}


def test_the_list_has_everything_with_its_state_and_licence(run: Run, folder: Path) -> None:
    outcome = run("list", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    rows: list[dict[str, Any]] = json.loads(outcome.stdout)
    found = {row["name"]: row for row in rows}
    assert (found["fidelity-x4"]["state"], found["fidelity-x4"]["bytes"]) == ("bundled", 2434904)
    assert found["parsenet"] | {"note": ""} == {
        "author": "",
        "source": "",
        "name": "parsenet",
        "kind": "face-parser",
        "state": "missing",
        "sha256": "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        "bytes": 85331193,
        "licence": "MIT",
        "commercial": True,
        "note": "",
    }
    assert not folder.exists(), "and looking makes none"


def test_the_list_is_a_table_for_people(run: Run) -> None:
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["name", "kind", "state", "MB", "SHA-256", "licence"]
    rows = [line.split() for line in lines]
    assert ["RealESRGAN_x4plus", "upscaler", "package,", "fp16", "33.4", "713ee713b035", "BSD-3-Clause"] in rows
    assert ["RealESRGAN_x2plus", "upscaler", "missing"] in [row[:3] for row in rows]


def test_a_file_of_the_users_own_wins_over_the_package(run: Run, folder: Path) -> None:
    assert states(run)["realesr-animevideov3"] == "package, fp16"
    folder.mkdir(parents=True)
    save(srvgg(), folder / "realesr-animevideov3.pth")
    assert states(run)["realesr-animevideov3"] == "installed"
    outcome = run("verify", "realesr-animevideov3")
    assert outcome.exit_code == 1 and "damaged or not the ones of the manifest" in outcome.output


def test_ones_own_checkpoints_are_listed_and_problems_named(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    save(srvgg(), folder / "mine.pth")
    (folder / "[text].pth").write_text("no network")
    found = states(run)
    assert found["mine"] == "own, srvgg ×4"
    assert found["[text]"] == "PROBLEM: [text].pth is not a checkpoint, or a damaged one"
    table = run("list").stdout
    assert "own, srvgg ×4" in table and "PROBLEM: [text].pth" in table


def test_pull_installs_and_says_what_nobody_vouches_for(run: Run, folder: Path, mirror: Publisher) -> None:
    outcome = run("pull", "sdxl-controlnet-tile")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.splitlines() == [
        f"sdxl-controlnet-tile/config.json  installed, {hashlib.sha256(CONFIG).hexdigest()}",
        f"sdxl-controlnet-tile/diffusion_pytorch_model.safetensors  installed, {hashlib.sha256(NET).hexdigest()}",
    ]
    assert outcome.stderr.count("note: the hash of sdxl-controlnet-tile/") == 2
    assert states(run)["sdxl-controlnet-tile"] == "installed"
    again = run("pull", "sdxl-controlnet-tile")
    assert again.stdout.count("already installed") == 2 and again.stderr == ""


def test_pull_refuses_wrong_content_in_one_line(run: Run, folder: Path, mirror: Publisher) -> None:
    words = complaint(run("pull", "parsenet"))
    assert words == f"{mirror.url}/parsing_parsenet.pth is not the expected file: it has 14 bytes, not 85331193"
    assert not list(folder.glob("parsing*"))


def test_pull_refuses_names_it_does_not_know(run: Run) -> None:
    assert complaint(run("pull", "x8plus")).startswith("there are no weights 'x8plus'; the manifest has realesrgan, ")


def test_pull_keeps_to_the_licence_policy(run: Run, mirror: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_LICENCE_POLICY", "commercial")
    assert complaint(run("pull", "gfpgan")).startswith("GFPGANv1.4 is refused, because UPSCALE_LICENCE_POLICY=comm")
    assert states(run)["GFPGANv1.4"] == "refused"
    assert mirror.asked == []


def test_a_folder_that_can_not_be_written_is_one_line(run: Run, folder: Path, mirror: Publisher) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    assert str(folder) in complaint(run("pull", "parsenet"))


PACKAGED = ("RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B", "realesr-animevideov3")


def test_verify_checks_what_is_here(run: Run, folder: Path, mirror: Publisher) -> None:
    outcome = run("verify")
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith("fidelity-x4  verified, ")
    run("pull", "sdxl-controlnet-tile")
    save(srvgg(), folder / "mine.pth")
    lines = run("verify").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["fidelity-x4", "verified,"],
        *([name, "verified,"] for name in PACKAGED),
        ["refiner", "verified,"],
        ["sdxl-controlnet-tile", "verified,"],
        ["mine", "verified,"],
    ]


def test_verify_names_what_is_damaged_and_goes_on(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "parsing_parsenet.pth").write_bytes(b"damaged")
    outcome = run("verify")
    assert outcome.exit_code == 1
    assert outcome.stdout.startswith("fidelity-x4  verified, ")
    assert outcome.stderr.startswith("error: the weights of 'parsenet' are damaged or not the ones of the manifest")
    assert complaint(run("verify", "GFPGANv1.4")).startswith("the weights of 'GFPGANv1.4' are not installed")


def test_export_and_import_carry_weights_across_a_gap(
    run: Run, folder: Path, mirror: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", "sdxl-controlnet-tile")
    outcome = run("export", "out.tar")
    assert outcome.exit_code == 0, outcome.output
    assert len(outcome.stdout.splitlines()) == 2
    assert complaint(run("export", "out.tar")) == "out.tar exists already"
    monkeypatch.setenv("UPSCALE_DATA_DIR", str(tmp_path / "other side"))
    outcome = run("import", "out.tar")
    assert outcome.exit_code == 0, outcome.output
    assert "sdxl-controlnet-tile  verified, " in run("verify").stdout
    there = tmp_path / "other side" / "weights" / "sdxl-controlnet-tile"
    assert (there / "diffusion_pytorch_model.safetensors").read_bytes() == NET


def test_export_has_only_what_is_installed(run: Run) -> None:
    assert complaint(run("export", "out.tar")) == "there is nothing to export: no weights are installed"
    assert complaint(run("export", "out.tar", "parsenet")).startswith("the weights of 'parsenet' are not installed")
    words = complaint(run("export", "out.tar", "fidelity-x4"), code=2)
    assert words == "fidelity-x4 is part of the server: it can't be exported"


def test_import_refuses_what_it_did_not_write(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photo.tar").write_bytes(b"no tar")
    assert complaint(run("import", "photo.tar")) == ("photo.tar is damaged, or was not written by `weights export`")
    assert complaint(run("import", "no.tar")) == "no.tar: No such file or directory"
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(tmp_path / "photo.tar", "../../evil.pth")
    assert complaint(run("import", "evil.tar")) == "evil.tar was not written by `weights export`"


def test_path_says_where_weights_lie(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    mine = save(srvgg(), folder / "mine.pth")
    assert run("path", "mine").stdout == f"{mine}\n"
    assert run("path", "fidelity-x4").stdout.endswith("/bundled/fidelity-x4.safetensors\n")
    assert complaint(run("path", "parsenet")).startswith("the weights of 'parsenet' are not installed: `python -m ser")


def test_a_checkpoint_of_ones_own_is_added_with_what_is_said_of_it(run: Run, folder: Path, tmp_path: Path) -> None:
    path = save(srvgg(num_conv=2, upscale=1), tmp_path / "1x-clean.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = ("--licence", "CC-BY-4.0", "--author", "A. Person", "--source", "https://example.org", "--purpose", "JPEG")
    assert run("add", path, "--sha256", digest.upper(), *said).stdout == f"1x-clean  srvgg ×1, {digest}\n"
    assert (folder / "1x-clean.pth").read_bytes() == path.read_bytes()
    (row,) = [row for row in json.loads(run("list", "--json").stdout) if row["name"] == "1x-clean"]
    assert (row["licence"], row["commercial"], row["author"]) == ("CC-BY-4.0", True, "A. Person")
    assert (row["source"], row["note"], row["sha256"]) == ("https://example.org", "JPEG", digest)
    assert "already" not in run("add", path, *said).stdout and run("verify", "1x-clean").exit_code == 0


def test_a_checkpoint_is_added_from_an_address_and_only_the_right_one(
    run: Run, folder: Path, mirror: Publisher, tmp_path: Path
) -> None:
    content = save(srvgg(num_conv=2, upscale=2), tmp_path / "x.pth").read_bytes()
    mirror.files["/a/2x-photo.pth"] = content
    address = f"{mirror.url}/a/2x-photo.pth"
    assert "give --sha256" in complaint(run("add", address))
    assert "SHA-256" in complaint(run("add", address, "--sha256", "0" * 64))
    assert list(folder.glob("*photo*")) == []
    run("add", address, "--sha256", hashlib.sha256(content).hexdigest())
    (row,) = [row for row in json.loads(run("list", "--json").stdout) if row["name"] == "2x-photo"]
    assert (row["state"], row["source"], row["licence"]) == ("own, srvgg ×2", address, "unknown")


def test_what_is_no_network_is_not_added(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no network")
    (tmp_path / "notes.txt").write_text("no network")
    assert "not installed: text.pth is not a checkpoint" in complaint(run("add", tmp_path / "text.pth"))
    assert "must end with .pth" in complaint(run("add", tmp_path / "notes.txt"))
    assert "must end with .pth" in complaint(run("add", tmp_path / "text.pth", "--name", "../text.pth"))
    assert "is in the manifest" in complaint(run("add", tmp_path / "text.pth", "--name", "RealESRGAN_x4plus.pth"))
    assert list(folder.glob("*.pth*")) == []


def test_a_checkpoint_does_not_replace_another(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", save(srvgg(num_conv=2), tmp_path / "mine.pth"))
    before = (folder / "mine.pth").read_bytes()
    assert "another checkpoint is installed" in complaint(run("add", save(srvgg(num_conv=3), tmp_path / "mine.pth")))
    assert (folder / "mine.pth").read_bytes() == before


def test_the_licence_policy_is_that_of_what_was_stated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSCALE_LICENCE_POLICY", "commercial")
    path = save(srvgg(num_conv=2), tmp_path / "mine.pth")
    assert "its licence is unknown" in complaint(run("add", path))
    assert "its licence is CC-BY-NC-4.0" in complaint(run("add", path, "--licence", "CC-BY-NC-4.0"))
    assert run("add", path, "--licence", "MIT").exit_code == 0
    assert states(run)["mine"] == "own, srvgg ×4"
    monkeypatch.delenv("UPSCALE_LICENCE_POLICY")
    run("add", save(srvgg(num_conv=2), tmp_path / "other.pth"), "--licence", "CC-BY-NC-4.0")
    monkeypatch.setenv("UPSCALE_LICENCE_POLICY", "commercial")
    assert states(run)["other"] == "refused"


def test_a_file_that_changed_after_it_was_added_is_not_used(run: Run, folder: Path, tmp_path: Path) -> None:
    run("add", save(srvgg(num_conv=2), tmp_path / "mine.pth"))
    save(srvgg(num_conv=3), folder / "mine.pth")
    assert "is not the file that was added" in states(run)["mine"]
