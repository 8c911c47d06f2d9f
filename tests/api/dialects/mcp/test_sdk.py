"""The official client against a server: each tool, in the protocol's versions with and without sessions."""

import base64
import io
import json
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult
from PIL import Image

from server.api.app import create_app
from server.api.dialects.mcp.translate import MAX_INLINE_BYTES
from server.blobs.base import new_key
from server.db.database import open_database
from server.db.keys import Keys
from server.db.limits import Limits
from server.errors import JobFailed
from server.job.job import Result
from server.job.mask import Mask
from tests.api.dialects.mcp.client import ERAS, Report, connected, text
from tests.conftest import Live, LiveServer, MakeConfig, Picture, StandIn, serve

each_era = pytest.mark.parametrize("era", ERAS)


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def of_type(result: CallToolResult, kind: str) -> list[Any]:
    return [each for each in result.content if each.type == kind]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@each_era
def test_every_tool_is_listed_with_schemas_and_does_its_work(live: Live, picture: Picture, era: str) -> None:
    source = picture(16, 8)
    with connected(live.url, era) as mcp:
        assert mcp.version == {"legacy": "2025-11-25", "auto": "2026-07-28"}[era]
        tools = {each.name: each for each in mcp.tools()}
        assert set(tools) == {"upscale", "plan", "jobs", "models"}
        assert "path" not in tools["upscale"].input_schema["properties"]
        # The client compares each answer with the tool's output schema.
        planned = mcp.call("plan", width=100, height=50, target="2k").structured_content
        assert (planned["source"], planned["result"]) == ([100, 50], [2048, 1024])
        assert mcp.call("plan", image=inline(source)).structured_content["result"] == [64, 32]
        models = mcp.call("models").structured_content
        assert models["models"] == [
            {name: each[name] for name in ("name", "scale", "licence", "note")}
            for each in live.client.get("/models").json()["models"]
        ]
        with live.worker.working():
            done = mcp.call("upscale", image=inline(source), scale=3)
        (job,) = mcp.call("jobs", id=done.structured_content["id"]).structured_content["jobs"]
        assert job == done.structured_content == json.loads(text(done))
        assert (job["state"], job["dialect"]) == ("succeeded", "mcp")
        assert (job["result"]["width"], job["result"]["height"]) == (48, 24)
        assert mcp.call("jobs", state="succeeded").structured_content == {"jobs": [job], "total": 1}
        assert mcp.call("jobs", state="failed").structured_content == {"jobs": [], "total": 0}


@each_era
def test_what_our_own_api_has_for_a_picture_can_be_asked_for(live: Live, picture: Picture, era: str) -> None:
    wanted: dict[str, Any] = {
        "megapixels": 0.02,
        "mask": {"boxes": [[1, 2, 3, 4]], "keep": "outside"},
        "grain": 0.5,
        "hdr": "keep",
        "wrap": "x",
        "certificate": True,
    }
    with connected(live.url, era) as mcp, live.worker.working():
        done = mcp.call("upscale", image=inline(picture(20, 10)), **wanted).structured_content
    params = live.worker.jobs.get(done["id"]).params
    assert params.mask == Mask(boxes=((1, 2, 3, 4),), keep="outside")
    assert (params.megapixels, params.grain, params.hdr, params.wrap) == (0.02, 0.5, "keep", "x")
    facts = done["result"]["certificate"]
    assert (done["result"]["width"], done["result"]["height"]) == (200, 100) and facts["difference"]["mean"] > 0
    heat_map = httpx.get(facts["heat_map_url"], trust_env=False).content
    assert Image.open(io.BytesIO(heat_map)).size == (20, 10)


@each_era
def test_a_small_result_is_a_link_and_the_picture_itself(live: Live, picture: Picture, era: str) -> None:
    with connected(live.url, era) as mcp, live.worker.working():
        done = mcp.call("upscale", image=inline(picture(16, 8)), format="webp")
    (link,), (image,) = of_type(done, "resource_link"), of_type(done, "image")
    data = httpx.get(link.uri, trust_env=False, timeout=60).content
    assert link.mime_type == image.mime_type == "image/webp"
    assert base64.b64decode(image.data) == data and link.size == len(data)
    assert Image.open(io.BytesIO(data)).size == (64, 32)


def test_a_large_result_is_only_a_link(live: Live, picture: Picture) -> None:
    file = io.BytesIO()
    Image.effect_noise((800, 800), 90).save(file, "PNG")
    data, key = file.getvalue(), new_key(".png")
    assert len(data) > MAX_INLINE_BYTES
    with connected(live.url) as mcp:
        going = mcp.start("upscale", image=inline(picture()))
        job = live.worker.claim()
        live.worker.blobs.put(key, data)
        made = Result(
            key=key,
            width=800,
            height=800,
            size_bytes=len(data),
            format="png",
            model="stand-in",
            model_sha256=None,
            seconds={},
        )
        assert live.worker.jobs.finish(job, made)
        done = going.result(30)
    assert [each.type for each in done.content] == ["text", "resource_link"]
    (link,) = of_type(done, "resource_link")
    assert httpx.get(link.uri, trust_env=False, timeout=60).content == data


def test_so_is_one_of_a_kind_that_clients_do_not_show(live: Live, picture: Picture) -> None:
    with connected(live.url) as mcp, live.worker.working():
        done = mcp.call("upscale", image=inline(picture()), format="tiff")
    assert [each.type for each in done.content] == ["text", "resource_link"]


def test_a_link_and_a_data_uri_are_pictures_too(live: Live, picture: Picture) -> None:
    sent = live.client.post("/uploads", content=picture(10, 10)).json()
    with connected(live.url) as mcp, live.worker.working():
        for image in (sent["url"], f"data:image/png;base64,{inline(picture(10, 10))}"):
            assert mcp.call("upscale", image=image, scale=2).structured_content["result"]["width"] == 20


@each_era
def test_progress_is_reported_and_only_rises(live: Live, picture: Picture, era: str) -> None:
    reports: list[Report] = []
    with connected(live.url, era) as mcp:
        going = mcp.start("upscale", reports, image=inline(picture()))
        job = live.worker.claim()
        for part in (0.25, 0.125, 0.75):
            live.worker.jobs.heartbeat(job, part, "upscaling")
            wait_for(lambda part=part: any(done >= part for done, _, _ in reports))
        live.worker.finish(job)
        going.result(30)
    assert reports[-1] == (1.0, 1.0, "succeeded")
    assert (0.25, 1.0, "upscaling") in reports and (0.75, 1.0, "upscaling") in reports
    assert [done for done, _, _ in reports] == sorted({done for done, _, _ in reports})


def test_progress_says_how_long_it_will_take(live: Live, picture: Picture) -> None:
    reports: list[Report] = []
    with connected(live.url, "auto") as mcp:
        going = mcp.start("upscale", reports, image=inline(picture()))
        job = live.worker.claim()
        live.worker.jobs.heartbeat(job, 0.5, "upscaling", 300.0)
        wait_for(lambda: any(re.fullmatch("upscaling, about [0-9]+ s left", said or "") for _, _, said in reports))
        live.worker.finish(job)
        found = going.result(30).structured_content
    assert (found["eta_s"], found["eta_max_s"]) == (None, None), "it has ended"


@each_era
def test_a_cancelled_call_cancels_its_job(live: Live, picture: Picture, era: str) -> None:
    reports: list[Report] = []
    with connected(live.url, era) as mcp:
        going = mcp.start("upscale", reports, image=inline(picture()))
        wait_for(lambda: reports)
        going.cancel()
        wait_for(lambda: live.worker.jobs.counts() == {"cancelled": 1})
        job = mcp.call("jobs").structured_content["jobs"][0]
        looked = mcp.call("jobs", id=job["id"])
    assert (looked.is_error, text(looked, 1)) == (True, "the job was cancelled")


def test_a_cancelled_wait_for_a_job_leaves_it_alone(live: Live, picture: Picture) -> None:
    reports: list[Report] = []
    with connected(live.url) as mcp:
        job = mcp.call("upscale", image=inline(picture()), wait_s=0).structured_content
        going = mcp.start("jobs", reports, id=job["id"], wait_s=60)
        wait_for(lambda: reports)
        going.cancel()
        assert mcp.call("jobs", id=job["id"]).structured_content["jobs"][0]["state"] == "queued"
        assert mcp.call("jobs", id=job["id"], cancel=True).structured_content["jobs"][0]["state"] == "cancelled"
        assert "already ended" in text(mcp.call("jobs", id=job["id"], cancel=True))


def test_a_job_that_takes_longer_is_asked_for_by_its_id(live: Live, picture: Picture) -> None:
    with connected(live.url) as mcp:
        early = mcp.call("upscale", image=inline(picture(8, 8)), scale=2, wait_s=0)
        job = early.structured_content
        assert not early.is_error and job["state"] == "queued" and job["id"] in text(early, 1)
        live.worker.finish()
        later = mcp.call("jobs", id=job["id"], wait_s=20)
    assert later.structured_content["jobs"][0]["result"]["width"] == 16
    assert [each.type for each in later.content] == ["text", "resource_link", "image"]


@each_era
def test_a_server_that_stops_names_the_job_which_continues(config: MakeConfig, picture: Picture, era: str) -> None:
    made = config()
    reports: list[Report] = []
    with serve(create_app(made)) as url:
        # The connection outlives its server.
        caller = connected(url, era)
        mcp = caller.__enter__()
        mcp.tools()  # else the client asks for them after the answer, to compare it with the schema
        going = mcp.start("upscale", reports, image=inline(picture()))
        wait_for(lambda: reports)
    said = going.result(30)
    caller.__exit__(None, None, None)
    assert not said.is_error and text(said, 1).startswith("the server restarts")
    assert StandIn(made).claim().id == said.structured_content["id"]


@each_era
def test_mistakes_are_results_that_say_what_would_work(live: Live, picture: Picture, era: str) -> None:
    image = inline(picture())
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("upscale", {}, "image is missing"),
        ("upscale", {"image": image, "scale": 11}, "scale: Input should be less than or equal to 10"),
        (
            "upscale",
            {"image": image, "scale": 2, "target": "2k"},
            "give exactly one of scale, target, size and mega",
        ),
        ("upscale", {"image": image, "scale": "2"}, "scale: Input should be a valid number"),
        ("upscale", {"image": image, "zoom": 2}, "there is no field 'zoom'"),
        ("upscale", {"image": "not a picture"}, "image must be an http(s) URL"),
        ("upscale", {"image": inline(b"text")}, "picture"),
        ("upscale", {"image": image, "model": "none"}, "none"),
        ("upscale", {"image": image, "size": [1]}, "size"),
        ("upscale", {"image": image, "mask": {"boxes": [[0, 0, 0, 1]]}}, "width and height of at least 1"),
        ("upscale", {"image": image, "mask": {"image": "x"}}, "mask"),
        ("upscale", {"image": image, "grain": 2}, "grain: Input should be less than or equal to 1"),
        ("upscale", {"image": image, "wrap": "z"}, "wrap"),
        ("plan", {"width": 5}, "give both width and height"),
        ("plan", {"image": image, "width": 5, "height": 5}, "either a picture or its width"),
        ("jobs", {"id": "0" * 32}, "there is no job"),
        ("jobs", {"cancel": True}, "give its id"),
        ("jobs", {"limit": 0}, "limit"),
        ("models", {"any": 1}, "there is no field 'any'"),
    ]
    with connected(live.url, era) as mcp:
        for tool, arguments, words in wrong:
            refused = mcp.call(tool, **arguments)
            assert refused.is_error and words in text(refused), (arguments, text(refused))
        with pytest.raises(MCPError, match="there are upscale, plan, jobs, models"):
            mcp.call("enlarge")
    assert live.worker.jobs.counts() == {}


@pytest.mark.parametrize("name", ["path", "output"])
def test_a_path_is_refused_over_http(live: Live, name: str) -> None:
    with connected(live.url) as mcp:
        refused = mcp.call("upscale", **{name: "/etc/passwd"})
    assert refused.is_error and "only by `python -m server mcp`, over stdio" in text(refused)


def test_a_job_that_failed_is_an_error_with_its_reason(live: Live, picture: Picture) -> None:
    with connected(live.url) as mcp:
        going = mcp.start("upscale", image=inline(picture()))
        live.worker.fail(JobFailed("it broke"))
        failed = going.result(30)
    assert (failed.is_error, text(failed, 1)) == (True, "it broke")
    assert failed.structured_content["error"] == {"code": "job_failed", "message": "it broke"}


def test_a_picture_that_was_deleted_is_said_to_be(live: Live, picture: Picture) -> None:
    with connected(live.url) as mcp:
        going = mcp.start("upscale", image=inline(picture()))
        done = live.worker.finish()
        going.result(30)
        assert done.result is not None
        live.worker.blobs.delete(done.result.key)
        looked = mcp.call("jobs", id=done.id)
    assert [each.type for each in looked.content] == ["text", "text"] and not looked.is_error


@each_era
def test_a_bad_key_is_refused_in_words(live_server: LiveServer, era: str) -> None:
    live = live_server(api_keys=("ann",))
    with pytest.raises(BaseException) as caught, connected(live.url, era, key="bob"):
        pass
    assert "MCPError: Invalid API key" in "".join(traceback.format_exception(caught.value)), "within a group"
    with connected(live.url, era, key="ann") as mcp:
        assert mcp.call("jobs").structured_content["total"] == 0


def test_a_key_at_its_limit_is_said_to_wait(live: Live, picture: Picture) -> None:
    _, secret = Keys(open_database(live.config.database)).create("ann", Limits(rate=1))
    with connected(live.url, key=secret) as mcp:
        assert not mcp.call("upscale", image=inline(picture()), wait_s=0).is_error
        refused = mcp.call("upscale", image=inline(picture()), wait_s=0)
    assert (refused.is_error, text(refused)) == (True, "this key may start 1 jobs a minute; wait a little")
    assert live.worker.jobs.counts() == {"queued": 1}
