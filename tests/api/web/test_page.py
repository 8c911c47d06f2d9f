"""The page as a whole: its files, from a dropped folder to an archive of results, and API keys."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import expect

from server.api.page import FOLDER
from server.job.formats import FORMATS
from server.job.job import (
    MAX_CREATIVITY,
    MAX_MEGAPIXELS,
    MAX_SCALE,
    QUALITIES,
    TARGET_LONG_EDGE,
    ContentWanted,
    Metadata,
    State,
    Wrap,
)
from server.pipeline import preview
from tests.api.web.conftest import Visitor
from tests.conftest import Live, LiveServer, Picture

INDEX = (FOLDER / "index.html").read_text("utf-8")


def constant(name: str, file: str) -> str:
    """The value of a constant in a script."""
    found = re.search(rf"const {name} = (.*);", (FOLDER / file).read_text("utf-8"))
    assert found
    return found[1]


# --- the files ------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_key_and_loads_nothing_from_elsewhere(live_server: LiveServer) -> None:
    live = live_server(api_keys=("secret",))
    answer = live.client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'; img-src 'self' blob: data:;" in policy and "unsafe" not in policy
    parts = re.findall(r'(?:href|src)="([^"]+)"', INDEX)
    assert {part.split("/")[0] for part in parts} == {"web"}
    for part in FOLDER.iterdir():
        answer = live.client.get(f"/web/{part.name}")
        assert answer.content == part.read_bytes() and answer.headers["x-content-type-options"] == "nosniff"
        assert len(part.read_text("utf-8").splitlines()) <= 450


@pytest.mark.parametrize(
    "path", ["/web/page.py", "/web/..%2fpage.py", "/web/.", "/web/%2e%2e", "/web/none.js", "/web/"]
)
def test_only_its_files_are_given(live: Live, path: str) -> None:
    answer = live.client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_it_offers_what_the_server_has() -> None:
    formats = re.search(r'<select id="format">(.*?)</select>', INDEX, re.DOTALL)
    contents = re.search(r'<select id="content">(.*?)</select>', INDEX, re.DOTALL)
    kept = re.search(r'<select id="metadata".*?>(.*?)</select>', INDEX, re.DOTALL)
    assert formats and set(re.findall(r'value="(\w+)"', formats[1])) == set(FORMATS)
    assert contents and tuple(re.findall(r'value="(\w+)"', contents[1])) == get_args(ContentWanted)
    assert kept and tuple(re.findall(r'value="(\w+)"', kept[1])) == get_args(Metadata)
    sides = re.search(r'<select id="wrap".*?>(.*?)</select>', INDEX, re.DOTALL)
    assert sides and tuple(re.findall(r'value="(\w+)"', sides[1])) == get_args(Wrap)
    assert f'id="megapixels" type="number" min="0.01" max="{MAX_MEGAPIXELS:.0f}"' in INDEX
    assert set(re.findall(r'name="size" value="(\dk)"', INDEX)) == set(TARGET_LONG_EDGE)
    assert json.loads(constant("LONG_EDGE", "options.js")) == TARGET_LONG_EDGE
    with_loss = {each.name for each in FORMATS.values() if each.default_quality}
    assert set(json.loads(constant("WITH_LOSS", "options.js"))) == with_loss
    either_way = {name for name in with_loss if FORMATS[name].lossless}
    assert set(json.loads(constant("EITHER_WAY", "options.js"))) == either_way
    assert 'id="quality" type="number" min="{}" max="{}"'.format(*QUALITIES) in INDEX
    assert f'id="factor" type="number" min="0.01" max="{MAX_SCALE:g}"' in INDEX
    assert f'type="range" min="-{MAX_CREATIVITY:g}" max="{MAX_CREATIVITY:g}"' in INDEX


def test_it_cuts_the_sheet_of_creativities_where_the_worker_joins_it() -> None:
    sizes = {name: int(constant(name, "sweep.js")) for name in ("COLUMNS", "CAPTION", "CROP")}
    assert sizes == {"COLUMNS": preview._COLUMNS, "CAPTION": preview._CAPTION, "CROP": preview.CROP}


# --- from a folder to an archive ------------------------------------------------------------------------------------


def test_a_folder_is_dropped_and_its_results_come_out_as_one_archive(
    live: Live, visit: Visitor, picture: Picture, tmp_path: Path
) -> None:
    trip = tmp_path / "trip"
    (trip / "beach" / "sun").mkdir(parents=True)
    for name, width in (("b.png", 90), ("beach/b.png", 60), ("beach/sun/c.tif", 30)):
        (trip / name).write_bytes(picture(width, 60, kind="tiff" if name.endswith("tif") else "png"))
    (trip / "notes.txt").write_text("Dear all")
    (trip / ".DS_Store").write_text("of the system")
    seen = visit(live)
    page, total = seen.page, seen.page.locator("#total")
    seen.drop_paths(trip)
    expect(page.locator("#pictures .card")).to_have_count(3)
    assert sorted(seen.names()) == ["trip/b.png", "trip/beach/b.png", "trip/beach/sun/c.tif"]
    expect(page.locator("#left")).to_have_text("Left out, because this server can't read them: trip/notes.txt.")
    page.get_by_label("2×").check()
    seen.press("Upscale 3 pictures")
    expect(total).to_contain_text("0 of 3 pictures done")
    expect(page.get_by_text("Waiting for its turn")).to_have_count(3)

    job = live.worker.claim()
    live.worker.jobs.heartbeat(job, 0.5)
    expect(total).to_contain_text(re.compile("0 of 3 pictures done, about .+ left"))
    assert 0.1 < total.get_by_role("progressbar").evaluate("bar => bar.value") < 0.3
    live.worker.finish(job)
    with live.worker.working():
        expect(total).to_contain_text("3 of 3 pictures done")
    expect(total.get_by_role("progressbar")).to_be_hidden()

    name, data = seen.download(total.get_by_role("button", name="Download 3 as ZIP"))
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert name == "upscaled.zip" and archive.testzip() is None
    assert sorted(archive.namelist()) == ["trip/b-2x.png", "trip/beach/b-2x.png", "trip/beach/sun/c-2x.png"]
    results = {job.request["name"]: job.result for job in live.worker.jobs.list()[0]}
    result = results["trip/beach/b.png"]
    assert result is not None and archive.read("trip/beach/b-2x.png") == live.worker.blobs.get(result.key)
    expect(total).to_be_visible()  # the browser stays on the page

    seen.press("Clear finished")
    expect(page.locator("#pictures .card")).to_have_count(0)
    expect(total).to_be_hidden()
    expect(page.locator("#earlier .card")).to_have_count(3)
    assert live.client.get("/jobs").json()["total"] == 3  # nothing is deleted


def test_an_archive_that_can_not_be_made_is_said_on_the_page(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    for name in ("a.png", "b.png"):
        seen.give(name, picture())
    seen.send()
    with live.worker.working():
        expect(seen.page.locator("#total")).to_contain_text("2 of 2 pictures done")
    result = live.worker.jobs.list()[0][0].result
    assert result is not None
    live.worker.blobs.delete(result.key)
    seen.press("Download 2 as ZIP")
    expect(seen.page.get_by_role("alert")).to_contain_text("A result is no longer on the server")
    expect(seen.page.locator("#total")).to_be_visible()
    assert seen.problems
    seen.problems.clear()


def test_a_folder_can_be_chosen_too(live: Live, visit: Visitor, picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "trip" / "in").mkdir(parents=True)
    (tmp_path / "trip" / "in" / "a.png").write_bytes(picture())
    seen = visit(live)
    with seen.page.expect_file_chooser() as chooser:
        seen.press("choose a folder")
    chooser.value.set_files(tmp_path / "trip")
    expect(seen.card("trip/in/a.png")).to_contain_text("Ready")


def test_a_picture_is_dropped_and_its_result_comes_out(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    page = seen.page
    seen.hand_over("drop", "holiday.png", picture(900, 600))
    card = seen.card("holiday.png")
    expect(card).to_contain_text("900 × 600 → 3,600 × 2,400")
    expect(page.locator("#summary")).to_contain_text("3,600 × 2,400, 8.6 MP")
    page.get_by_label("2×").check()
    expect(card).to_contain_text("900 × 600 → 1,800 × 1,200")
    seen.send()
    expect(card).to_contain_text("Waiting for its turn")

    job = live.worker.claim()
    live.worker.jobs.heartbeat(job, 0.25)
    expect(card).to_contain_text("Working, 25 %")
    time.sleep(0.3)
    live.worker.jobs.heartbeat(job, 0.5, None, 30.0)
    expect(card).to_contain_text(re.compile("Working, 50 %, about (2[0-9]|30) s left, at most [4-6][0-9] s"))
    assert card.get_by_role("progressbar").evaluate("bar => bar.value") == 0.5

    live.worker.finish(job)
    expect(card).to_contain_text("Done")
    expect(page.locator("#said")).to_have_text("holiday.png: done, 1800 by 1200 pixels")
    result = live.worker.jobs.get(job.id).result
    assert result is not None
    saved = seen.download(card.get_by_role("button", name="Download"))
    assert saved == ("holiday-2x.png", live.worker.blobs.get(result.key))


def test_a_picture_is_pasted(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    seen.hand_over("paste", "image.png", picture())
    expect(seen.card("image.png")).to_contain_text("32 × 24 → 128 × 96")


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_can_be_typed_in(live_server: LiveServer, visit: Visitor, picture: Picture) -> None:
    live = live_server(api_keys=("right", "other"))
    seen = visit(live)
    page = seen.page
    expect(page.get_by_role("alert")).to_have_text("This server asks for an API key.")
    page.set_input_files("#files", {"name": "b.tif", "mimeType": "", "buffer": picture(kind="tiff")})
    expect(seen.card("b.tif")).to_contain_text("Invalid API key")
    field = page.get_by_label("API key of this server")
    field.fill("wrong")
    seen.press("Use it")
    expect(page.get_by_role("alert")).to_contain_text("Invalid API key")
    field.fill("right")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(seen.card("b.tif")).to_contain_text("Ready")  # it was asked about again
    seen.refused(401, 401, 401)

    seen.give("a.png", picture())
    seen.send()
    live.worker.finish()
    live.worker.finish()
    card = seen.card("b.tif")
    expect(card).to_contain_text("Done")
    assert seen.download(card.get_by_role("button", name="Download"))[1]
    assert seen.download(page.get_by_role("button", name="Download 2 as ZIP"))[1]
    assert live.client.get("/jobs", headers={"Authorization": "Bearer other"}).json()["total"] == 0
    page.get_by_text("The same from a program").click()
    assert "right" not in page.locator("#curl").inner_text() + page.locator("#python").inner_text()
    page.reload()
    expect(seen.card("b.tif")).to_contain_text("Done")
    assert "right" not in page.evaluate("JSON.stringify(localStorage)") and page.context.cookies() == []


# --- the same from a program ----------------------------------------------------------------------------------------


def test_what_is_copied_for_programs_runs(
    live_server: LiveServer, visit: Visitor, picture: Picture, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    live = live_server(api_keys=("secret",))
    seen = visit(live, permissions=["clipboard-read", "clipboard-write"])
    page = seen.page
    page.get_by_label("API key of this server").fill("secret")
    seen.press("Use it")
    expect(page.get_by_role("alert")).to_be_hidden()
    seen.refused(401)
    name = """my "best" pic's.png"""
    (tmp_path / name).write_bytes(picture())
    seen.give(name, picture())
    page.get_by_label("For print").check()
    page.get_by_label("Longer side").fill("1")
    page.get_by_text("The same from a program").click()
    env = {"PATH": os.environ["PATH"], "API_KEY": "secret", "NO_PROXY": "*"}
    result = tmp_path / """my "best" pic's-118x89.png"""
    for what, command in (("curl", ["bash", "-eu"]), ("Python", [sys.executable])):
        seen.press(f"Copy as {what}")
        expect(page.locator("#said")).to_have_text("Copied")
        text = page.evaluate("navigator.clipboard.readText()")
        with live.worker.working():
            run = subprocess.run(command, input=text, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        newest = live.worker.jobs.list(states=[State.SUCCEEDED])[0][0].result
        assert newest is not None and result.read_bytes() == live.worker.blobs.get(newest.key)
        result.unlink()
        page.evaluate("document.getElementById('said').textContent = ''")
