"""Both clients against a real server."""

import asyncio
import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from PIL import Image

import upscale_client
from server.api.dialects.native.translate import JobRequest
from server.errors import BY_CODE, SourceUnreadable
from server.job.job import State
from tests.conftest import Live, LiveServer, Picture
from tests.paths import ROOT
from tests.upscale_client.conftest import Connect, Gate
from upscale_client import (
    AsyncClient,
    BadSource,
    Client,
    Conflict,
    InvalidRequest,
    Job,
    JobCancelled,
    NotFound,
    ServerFault,
    StillRunning,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
    answers,
    errors,
)


def size_of(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


# --- pictures in, pictures out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "path", "text path", "open file", "URL"])
def test_a_picture_is_given_in_each_way(
    live_server: LiveServer, connect: Connect, picture: Picture, tmp_path: Path, kind: str
) -> None:
    live = live_server(api_keys=("ours",))
    client = connect(live.url, key="ours")
    data = picture(40, 20)
    path = tmp_path / "in.png"
    path.write_bytes(data)
    live.worker.blobs.put("0" * 32 + ".png", data)
    given: dict[str, Any] = {
        "bytes": data,
        "path": path,
        "text path": str(path),
        "URL": f"{live.url}/files/{'0' * 32}.png",
    }
    with path.open("rb") as file, live.worker.working():
        result = client.upscale(given.get(kind, file), scale=2, format="jpeg")
    assert size_of(result) == ("JPEG", (80, 40))


def test_a_result_is_written_to_a_file(live: Live, connect: Connect, picture: Picture, tmp_path: Path) -> None:
    client = connect(live.url)
    to = tmp_path / "big.png"
    to.write_bytes(b"earlier")
    seen: list[Job] = []
    with live.worker.working():
        assert client.upscale(picture(40, 20), to=to, scale=2, progress=seen.append) == to
    assert size_of(to.read_bytes()) == ("PNG", (80, 40))
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ""] == ["big.png"]
    assert [each.state for each in seen if each.ended] == ["succeeded"] and seen[-1].progress == 1


def test_a_place_that_can_not_be_written_to_is_said_before_the_job(
    live: Live, connect: Connect, picture: Picture, tmp_path: Path
) -> None:
    client = connect(live.url)
    for to in (tmp_path / "none" / "big.png", tmp_path):
        with pytest.raises(FileNotFoundError, match="name a file in a folder that exists"):
            client.upscale(picture(), to=to)
    with pytest.raises(FileNotFoundError):
        client.upscale(tmp_path / "none.png")
    assert client.jobs() == []


def test_every_option_is_understood_in_both_kinds_of_body(live: Live, connect: Connect, picture: Picture) -> None:
    client = connect(live.url)
    live.worker.blobs.put("0" * 32 + ".png", picture(40, 20))
    options: dict[str, Any] = {
        "size": (100, 60),
        "format": "jpeg",
        "quality": 80,
        "lossless": False,
        "progressive": True,
        "depth": 8,
        "metadata": "strip",
        "colour": "srgb",
        "background": (1, 2, 3),
        "animation": "first",
        "model": "auto",
        "denoise": None,
        "creativity": -1.5,
        "content": "photo",
        "seed": 7,
        "sweep": False,
    }
    as_form = client.submit(picture(40, 20), **options).raw["params"]
    as_json = client.submit(f"{live.url}/files/{'0' * 32}.png", **options).raw["params"]
    assert as_form == as_json
    for name, value in options.items():
        assert as_form[name] == (list(value) if isinstance(value, tuple) else value), name


def test_options_are_those_of_the_server() -> None:
    ours = get_type_hints(upscale_client.Options)
    assert ours.keys() == JobRequest.model_fields.keys() - {"image"}


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_a_job_from_submit_to_deletion(keyed: Live, connect: Connect, picture: Picture) -> None:
    client, stranger = connect(keyed.url, key="ours"), connect(keyed.url, key="theirs")
    data = picture(40, 20)
    job = client.submit(data, scale=2)
    assert (job.state, job.ended, job.error, job.result) == ("queued", False, None, None)
    with pytest.raises(Conflict):
        client.result(job)
    with pytest.raises(NotFound):
        stranger.get(job)
    with pytest.raises(StillRunning) as late:
        client.wait(job, timeout_s=0.2)
    assert isinstance(late.value, TimeoutError) and late.value.job is not None and late.value.job.id == job.id
    keyed.worker.finish()
    done = client.wait(job.id)
    assert done.result is not None
    assert (done.result.width, done.result.height, done.result.format, done.result.model) == (80, 40, "png", "stand-in")
    assert client.source(done) == data
    assert len(client.result(done)) == done.result.size_bytes
    assert [each.id for each in client.jobs("succeeded")] == [job.id] and client.jobs("failed") == []
    client.delete(done)
    with pytest.raises(NotFound):
        client.get(done)


def test_a_job_is_cancelled(live: Live, connect: Connect, picture: Picture) -> None:
    client = connect(live.url)
    job = client.submit(picture())
    assert client.cancel(job).state == "cancelled"
    with pytest.raises(JobCancelled) as error:
        client.wait(job)
    assert error.value.job is not None and error.value.job.id == job.id
    with pytest.raises(Conflict):
        client.cancel(job)


def test_a_failed_job_raises_the_error_of_its_code_with_the_servers_words(
    live: Live, connect: Connect, picture: Picture
) -> None:
    client = connect(live.url)
    job = client.submit(picture())
    live.worker.fail(SourceUnreadable("the picture is damaged"))
    with pytest.raises(BadSource, match="the picture is damaged") as error:
        client.wait(job)
    assert (error.value.code, error.value.status) == ("source_unreadable", None)


def test_each_change_is_reported(live: Live, connect: Connect, picture: Picture) -> None:
    client = connect(live.url)
    job = client.submit(picture())
    seen: list[tuple[str, float]] = []

    def progress(found: Job) -> None:
        """Each report lets the worker do the next thing, so that none can be missed."""
        seen.append((found.state, found.progress))
        if len(seen) == 1:
            claimed.append(live.worker.claim())
        elif len(seen) == 2:
            live.worker.jobs.heartbeat(claimed[0], 0.5, "upscaling")
        elif len(seen) == 3:
            live.worker.finish(claimed[0])

    claimed: list[Any] = []
    client.wait(job, progress=progress)
    assert seen == [("queued", 0), ("running", 0), ("running", 0.5), ("succeeded", 1)]


def test_an_async_client_awaits_what_reports_progress(live: Live, connect: Connect, picture: Picture) -> None:
    seen: list[str] = []

    async def progress(job: Job) -> None:
        seen.append(job.state)

    client = connect(live.url)
    if isinstance(client, Client):
        pytest.skip("this is about the other one")
    with live.worker.working():
        client.upscale(picture(), progress=progress)
    assert seen[-1] == "succeeded"


async def _many(url: str, data: bytes) -> list[bytes]:
    async with AsyncClient(url, trust_env=False) as client:
        return list(await asyncio.gather(*(client.upscale(data, scale=2) for _ in range(4))))


def test_an_async_client_does_several_at_a_time(live: Live, picture: Picture) -> None:
    with live.worker.working():
        results = asyncio.run(_many(live.url, picture(40, 20)))
    assert [size_of(each) for each in results] == [("PNG", (80, 40))] * 4


def test_a_client_is_shared_by_threads(live: Live, picture: Picture) -> None:
    results: list[bytes] = []
    with Client(live.url, trust_env=False) as client, live.worker.working():
        threads = [
            threading.Thread(target=lambda: results.append(client.upscale(picture(40, 20), scale=2))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4


# --- plans and models -----------------------------------------------------------------------------------------------


def test_a_plan_of_a_picture_and_of_a_size(live: Live, connect: Connect, picture: Picture) -> None:
    client = connect(live.url)
    for plan in (client.plan(picture(40, 20), target="2k"), client.plan(source=(40, 20), target="2k")):
        assert (plan.source, plan.result, plan.model) == ((40, 20), (2048, 1024), "fidelity-x4")
    assert client.jobs() == []
    with pytest.raises(ValueError, match="either a picture or the size"):
        client.plan()


def test_the_networks_are_listed(live: Live, connect: Connect) -> None:
    models = connect(live.url).models()
    assert "fidelity-x4" in [each.name for each in models.networks]
    assert models.faces is False and models.why_no_faces


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_wrong_field_is_named(live: Live, connect: Connect, picture: Picture) -> None:
    client = connect(live.url)
    with pytest.raises(InvalidRequest, match="scale") as error:
        client.submit(picture(), scale=11)
    assert (error.value.field, error.value.code, error.value.status) == ("scale", "invalid_field", 400)
    with pytest.raises(InvalidRequest, match="there is no field 'sacle'"):
        client.submit(picture(), sacle=2)
    with pytest.raises(BadSource):
        client.submit(b"no picture at all")


def test_a_wrong_key_is_refused(keyed: Live, connect: Connect) -> None:
    with pytest.raises(Unauthorized, match="Invalid API key"):
        connect(keyed.url, key="wrong").jobs()


def test_every_code_and_state_of_the_server_is_known() -> None:
    assert errors.BY_CODE.keys() == BY_CODE.keys()
    for code, ours in errors.BY_CODE.items():
        if BY_CODE[code].status in errors.BY_STATUS:
            assert issubclass(ours, errors.BY_STATUS[BY_CODE[code].status]), code
    assert set(answers.ENDED) == {state.value for state in State if state.final}


def test_what_is_no_upscale_server_is_called_so(gate: Gate, connect: Connect) -> None:
    gate.faults = ["proxy"]
    with pytest.raises(Unavailable, match="not an answer of an upscale-server: 504, <h1>504"):
        connect(gate.url, retries=0).jobs()
    gate.faults = ["page"]
    with pytest.raises(ServerFault, match="it is not JSON"):
        connect(gate.url).jobs()
    for url in ("http://127.0.0.1:1", "127.0.0.1:8000"):
        with pytest.raises(Unreachable, match="no answer from the server"):
            connect(url, retries=0 if url.startswith("http") else 5).jobs()


# --- retries --------------------------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again(live: Live, gate: Gate, connect: Connect, picture: Picture) -> None:
    client = connect(gate.url)
    gate.faults = ["busy", "busy"]
    with live.worker.working():
        assert client.upscale(picture(), scale=2)
    assert gate.passed.count("POST /jobs") == 1
    gate.faults = ["busy"] * 3
    with pytest.raises(Unavailable, match="it is busy"):
        connect(gate.url, retries=2).jobs()
    assert gate.faults == []


def test_a_wait_that_is_too_long_is_not_waited_for(gate: Gate, connect: Connect, picture: Picture) -> None:
    gate.faults = ["later"]
    with pytest.raises(TooManyRequests, match="of today are used up") as error:
        connect(gate.url).submit(picture())
    assert error.value.retry_after_s == 3600 and gate.passed == []


def test_a_broken_connection_loses_nothing(
    live: Live, gate: Gate, connect: Connect, picture: Picture, tmp_path: Path
) -> None:
    """Also one that breaks within the picture: the file is whole, or not there."""
    client = connect(gate.url)
    job = client.submit(picture(40, 20), scale=2)
    live.worker.finish()
    for fault in ("lost", "unanswered", "proxy"):
        gate.faults = [fault]
        assert client.get(job).state == "succeeded"
    gate.faults = ["cut"]
    client.save(job, tmp_path / "big.png")
    assert size_of((tmp_path / "big.png").read_bytes()) == ("PNG", (80, 40))
    gate.faults = ["cut"]
    with pytest.raises(Unreachable):
        connect(gate.url, retries=0).save(job, tmp_path / "other.png")
    assert {each.name for each in tmp_path.iterdir() if each.is_file()} == {"big.png"}


def test_a_job_whose_answer_was_lost_is_not_submitted_again(gate: Gate, connect: Connect, picture: Picture) -> None:
    client = connect(gate.url)
    gate.faults = ["unanswered"]
    with pytest.raises(Unreachable):
        client.submit(picture())
    assert len(client.jobs()) == 1


def test_the_servers_time_to_wait_is_kept() -> None:
    """Steps alone, without a clock."""
    from upscale_client.steps import Answer, Retries, Send, Sleep, call

    asking = call(Send("POST", "/jobs", repeatable=False), Retries(2, 60))
    assert isinstance(next(asking), Send)
    assert asking.send(Answer(429, {"retry-after": "7"}, b"")) == Sleep(7)
    assert isinstance(asking.send(None), Send)
    assert isinstance(pause := asking.send(Answer(503, {}, b"")), Sleep) and 0 < pause.seconds < 60
    assert isinstance(asking.send(None), Send)
    with pytest.raises(Unavailable):
        asking.send(Answer(503, {}, b""))


# --- without the server ---------------------------------------------------------------------------------------------


def test_it_works_where_nothing_of_the_server_is_installed(live: Live, picture: Picture, tmp_path: Path) -> None:
    """Copied alone to another place; what the server is made of can't be imported there."""
    os.symlink(ROOT / "upscale_client", tmp_path / "upscale_client")
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    code = (
        "import sys\n"
        "missing = 'server torch numpy fastapi starlette pydantic sqlalchemy PIL pyvips rich'\n"
        "sys.modules.update(dict.fromkeys(missing.split()))\n"
        "from upscale_client import Client\n"
        "print(len(Client(sys.argv[1], trust_env=False).upscale('in.png', scale=2)))\n"
    )
    with live.worker.working():
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        run = subprocess.run(
            [sys.executable, "-c", code, live.url], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100
