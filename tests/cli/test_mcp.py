"""`mcp` over standard input and output, with the official client: against a server that runs, and with its own."""

import base64
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mcp import StdioServerParameters
from mcp.shared.exceptions import MCPError
from PIL import Image

from server.api.app import create_app
from server.api.dialects.mcp.translate import MAX_BODY_BYTES
from server.config import Config
from tests.api.dialects.mcp.client import Connected, Report, started, text
from tests.api.dialects.mcp.test_sdk import wait_for
from tests.conftest import FAST, LOOPBACK, Live, draw, serve
from tests.paths import ROOT


def command(*arguments: str, **env: str) -> StdioServerParameters:
    found = {name: os.environ[name] for name in ("HOME", "PATH", "PYTHONPATH") if name in os.environ}
    return StdioServerParameters(
        command=sys.executable, args=["-m", "server", "mcp", *arguments], env=found | FAST | env, cwd=ROOT
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Live]:
    config = Config(data_dir=tmp_path_factory.mktemp("mcp"), api_keys=("ann",))
    shutil.copy(empty_database, config.data_dir / "jobs.sqlite3")
    with (
        serve(create_app(config)) as url,
        httpx.Client(base_url=url, headers={"Authorization": "ann"}, **LOOPBACK) as client,
    ):
        yield Live(url, config, client)


@pytest.fixture(scope="module")
def mcp(live: Live) -> Iterator[Connected]:
    """One process for all tests that only call tools."""
    with started(command("--url", f"{live.url}/mcp/", UPSCALE_API_KEYS="ann,other")) as connected:
        yield connected


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(draw(16, 8))
    return path


def seen(path: Path) -> tuple[str | None, int, int]:
    """Kind and size."""
    with Image.open(path) as image:
        return image.format, *image.size


def test_the_tools_are_the_servers_with_files_in_addition(mcp: Connected) -> None:
    fields = {each.name: set(each.input_schema["properties"]) for each in mcp.tools()}
    assert {"path", "output", "image", "scale"} <= fields["upscale"] and "path" in fields["plan"]
    assert "output" in fields["jobs"] and "path" not in fields["jobs"]


def test_a_result_is_written_beside_its_source(live: Live, mcp: Connected, photo: Path) -> None:
    reports: list[Report] = []
    with live.worker.working():
        done = mcp.call("upscale", reports, path=str(photo), scale=3, format="jpeg")
    result = photo.with_name("photo_upscaled.jpeg")
    assert text(done, 1) == f"saved as {result}" and seen(result) == ("JPEG", 48, 24)
    assert reports[-1] == (1.0, 1.0, "succeeded")
    job = mcp.call("jobs", id=done.structured_content["id"]).structured_content["jobs"][0]
    assert job["dialect"] == "mcp" and live.client.get(f"/jobs/{job['id']}").is_success, "it is the key's own"


def test_the_outputs_ending_is_its_format(live: Live, mcp: Connected, photo: Path) -> None:
    output = photo.with_name("large.webp")
    with live.worker.working():
        done = mcp.call("upscale", path=str(photo), output=str(output))
    assert not done.is_error and seen(output) == ("WEBP", 64, 32)
    with live.worker.working():
        done = mcp.call("upscale", image=base64.b64encode(draw()).decode(), output=str(photo.with_name("b.jpg")))
    assert not done.is_error and seen(photo.with_name("b.jpg")) == ("JPEG", 128, 96)


def test_a_file_over_the_limit_of_messages_is_upscaled_too(live: Live, mcp: Connected, tmp_path: Path) -> None:
    large = io.BytesIO()
    Image.effect_noise((2200, 2600), 90).convert("RGB").save(large, "TIFF")
    assert len(large.getvalue()) > MAX_BODY_BYTES
    (tmp_path / "large.tiff").write_bytes(large.getvalue())
    planned = mcp.call("plan", path=str(tmp_path / "large.tiff"), scale=0.5)
    assert planned.structured_content["result"] == [1100, 1300], text(planned)


def test_a_result_that_came_later_is_written_when_it_is_asked_for(live: Live, mcp: Connected, photo: Path) -> None:
    output = photo.with_name("later.png")
    early = mcp.call("upscale", path=str(photo), output=str(output), wait_s=0)
    assert "is not written yet: call jobs" in text(early, 2) and not output.exists()
    live.worker.finish()
    mcp.call("jobs", id=early.structured_content["id"], output=str(output))
    assert seen(output) == ("PNG", 64, 32)


def test_no_file_is_overwritten_and_none_but_pictures_are_read(live: Live, mcp: Connected, photo: Path) -> None:
    secret = photo.with_name("secret.png")
    secret.write_text("not a picture")
    for arguments, words in (
        ({"path": str(photo), "output": str(photo)}, "exists: give another path"),
        ({"path": str(photo), "output": str(photo.parent / "none" / "a.png")}, "there is no folder"),
        ({"path": str(photo), "output": str(photo.with_name("a.txt"))}, "output must end in one of"),
        ({"path": str(photo), "output": str(photo.with_name("a.jpg")), "format": "png"}, "is jpeg by its name"),
        ({"path": str(photo), "image": "x"}, "either image or path"),
        ({"path": "photo.png"}, "an absolute path"),
        ({"path": 7}, "an absolute path"),
        ({"path": str(photo.parent)}, "there is no file"),
        ({"path": str(secret)}, "is not a picture"),
        ({"path": str(photo), "scale": 11}, "less than or equal to 10"),
        ({"path": str(photo), "format": "bmp"}, "format: Input should be"),
    ):
        refused = mcp.call("upscale", **arguments)
        assert refused.is_error and words in text(refused), (arguments, text(refused))
    assert sorted(each.name for each in photo.parent.iterdir()) == ["photo.png", "secret.png"]
    with pytest.raises(MCPError, match="there are upscale, plan, jobs, models"):
        mcp.call("enlarge")


def test_a_cancelled_call_cancels_the_job_on_the_server(live: Live, mcp: Connected, photo: Path) -> None:
    reports: list[Report] = []
    before = live.worker.jobs.counts().get("cancelled", 0)
    going = mcp.start("upscale", reports, path=str(photo))
    wait_for(lambda: reports)
    going.cancel()
    wait_for(lambda: live.worker.jobs.counts().get("cancelled", 0) == before + 1)
    assert [each.name for each in photo.parent.iterdir()] == ["photo.png"]


def test_a_server_that_refuses_the_key_or_is_not_there_is_named(live: Live, photo: Path) -> None:
    with started(command("--url", live.url, UPSCALE_API_KEYS="eve"), "legacy") as mcp:
        assert text(mcp.call("jobs")) == "Invalid API key"
        assert "Invalid API key" in text(mcp.call("plan", path=str(photo)))
    with started(command("--url", "http://127.0.0.1:9")) as mcp:
        for arguments in ({"path": str(photo)}, {"width": 8, "height": 8}):
            refused = mcp.call("plan", **arguments)
            assert refused.is_error and "http://127.0.0.1:9 can't be reached" in text(refused)


def test_without_the_package_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['mcp'] = None; sys.argv = ['x', 'mcp']; from server.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "error: this needs the extra `mcp`: pip install 'upscale-server[mcp]'\n"


@pytest.mark.slow
def test_it_starts_a_server_of_its_own_which_ends_with_it(tmp_path: Path, photo: Path) -> None:
    with started(command("--data-dir", str(tmp_path / "data"), OMP_NUM_THREADS="1")) as mcp:
        done = mcp.call("upscale", path=str(photo), scale=2)
        assert seen(photo.with_name("photo_upscaled.png")) == ("PNG", 32, 16), text(done)
        url = done.structured_content["result"]["url"]
        assert httpx.get(url, timeout=60, **LOOPBACK).is_success
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=60, **LOOPBACK)


@pytest.mark.slow
def test_its_server_ends_too_when_it_is_killed(tmp_path: Path) -> None:
    """As some clients do with processes that take longer to end than they wait."""
    parts = command("--data-dir", str(tmp_path / "data"), OMP_NUM_THREADS="1")
    opening = (
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    )
    opening += '"clientInfo":{"name":"test","version":"1"}}}\n{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
    call = '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"models","arguments":{}}}\n'
    assert parts.env is not None
    with subprocess.Popen(
        [parts.command, *parts.args],
        env=parts.env,
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(opening + call)
        process.stdin.flush()
        assert '"id":1' in process.stdout.readline() and "fidelity-x4" in process.stdout.readline()
        (own,) = "".join(each.read_text() for each in Path(f"/proc/{process.pid}/task").glob("*/children")).split()
        process.kill()
    wait_for(lambda: not Path(f"/proc/{own}").exists())
