"""The web page in a real browser, against a real server with a fast stand-in for the worker.

Needs Chromium or Chrome: on the path, or named by UPSCALE_TEST_BROWSER. Nothing is downloaded.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Locator, Page, expect

from server.api.page import FOLDER
from server.errors import JobFailed
from server.job.formats import FORMATS
from server.job.job import MAX_CREATIVITY, QUALITIES, TARGET_LONG_EDGE, ContentWanted, State
from tests.conftest import Live, LiveServer, Picture

INDEX = (FOLDER / "index.html").read_text("utf-8")
VENDOR = "/api/v3/wavespeed-ai/real-esrgan"


class Visit:
    """A visitor's tab; errors in it are collected."""

    def __init__(self, page: Page, live: Live) -> None:
        self.page = page
        self.live = live
        self.problems: list[str] = []
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: self._own(request.url))
        page.goto(live.url)

    def _own(self, url: str) -> None:
        if not url.startswith((self.live.url + "/", "blob:", "data:")):
            self.problems.append(f"asked {url}")

    def refused(self, *statuses: int) -> None:
        """The browser has noted answers of these statuses, and nothing else was wrong."""
        assert [re.search(r"status of (\d+)", each) is not None for each in self.problems] == [True] * len(statuses)
        assert [int(each.split("status of ")[1][:3]) for each in self.problems] == list(statuses)
        self.problems.clear()

    def give(self, name: str, data: bytes) -> Locator:
        """Choose a file, and its card once the server has looked at it."""
        self.page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": data})
        card = self.card(name)
        expect(card).not_to_contain_text("Checking")
        return card

    def card(self, name: str) -> Locator:
        return self.page.locator(".card").filter(has=self.page.get_by_text(name, exact=True)).last

    def send(self) -> None:
        self.page.get_by_role("button", name="Upscale").click()

    def download(self, card: Locator) -> tuple[str, bytes]:
        with self.page.expect_download() as download:
            card.get_by_role("button", name="Download").click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """`visit(live, **context)`: opens the page. At the end there must be no error that a test did not expect."""
    visits: list[Visit] = []

    def open_page(live: Live, **context: Any) -> Visit:
        visits.append(Visit(browser.new_context(**context).new_page(), live))
        return visits[-1]

    yield open_page
    for each in visits:
        each.page.context.close()
    assert [problem for each in visits for problem in each.problems] == []


def hand_over(page: Page, event: str, name: str, data: bytes) -> None:
    """As a hand would: "drop" from another window, or "paste" from the clipboard."""
    page.evaluate(
        """([name, bytes, event]) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob(bytes), (char) => char.charCodeAt(0))], name));
            const what = event === "drop" ? { dataTransfer: data } : { clipboardData: data };
            const kind = event === "drop" ? DragEvent : ClipboardEvent;
            document.body.dispatchEvent(new kind(event, { bubbles: true, cancelable: true, ...what }));
        }""",
        [name, base64.b64encode(data).decode(), event],
    )


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


@pytest.mark.parametrize(
    "path", ["/web/page.py", "/web/..%2fpage.py", "/web/.", "/web/%2e%2e", "/web/none.js", "/web/"]
)
def test_only_its_files_are_given(live: Live, path: str) -> None:
    answer = live.client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_it_offers_what_the_server_has() -> None:
    formats = re.findall(r'<option value="(\w+)">(?=\w+</option>\s)', INDEX)
    assert set(formats) - {"auto"} == set(FORMATS)
    assert set(re.findall(r'name="size" value="(\dk)"', INDEX)) == set(TARGET_LONG_EDGE)
    script = (FOLDER / "options.js").read_text("utf-8")
    edges = re.search(r"LONG_EDGE = (\{.*\})", script)
    with_loss = re.search(r"WITH_LOSS = (\[.*\])", script)
    assert (
        edges
        and json.loads(re.sub(r"(\w+)(?=:)", r'"\1"', edges[1].replace('"', "")).replace(" }", "}")) == TARGET_LONG_EDGE
    )
    assert with_loss and set(json.loads(with_loss[1])) == {f.name for f in FORMATS.values() if f.default_quality}
    assert 'id="quality" type="number" min="{}" max="{}"'.format(*QUALITIES) in INDEX
    assert f'type="range" min="-{MAX_CREATIVITY:g}" max="{MAX_CREATIVITY:g}"' in INDEX
    contents = re.search(r'<select id="content">(.*?)</select>', INDEX, re.DOTALL)
    assert contents and tuple(re.findall(r'value="(\w+)"', contents[1])) == get_args(ContentWanted)


# --- from drop to download ------------------------------------------------------------------------------------------


def test_a_picture_is_dropped_and_its_result_comes_out(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    page = seen.page
    hand_over(page, "drop", "holiday.png", picture(900, 600))
    card = seen.card("holiday.png")
    expect(card).to_contain_text("900 × 600 → 3600 × 2400 · 4 tiles")
    expect(page.locator("#summary")).to_have_text("1 picture, 4 tiles. Network: fidelity-x4.")
    page.get_by_label("2×").check()
    expect(card).to_contain_text("900 × 600 → 1800 × 1200 · 4 tiles")
    seen.send()
    expect(card).to_contain_text("Waiting for its turn")

    job = live.worker.claim()
    live.worker.jobs.heartbeat(job, 0.25)
    expect(card).to_contain_text("Working, 25 %")
    time.sleep(0.3)
    live.worker.jobs.heartbeat(job, 0.5)
    expect(card).to_contain_text(re.compile("Working, 50 %, about (a second|[0-9] s) left"))
    assert card.get_by_role("progressbar").evaluate("bar => bar.value") == 0.5

    live.worker.finish(job)
    expect(card).to_contain_text("Done")
    expect(page.get_by_role("status").first).to_have_text("holiday.png: done, 1800 by 1200 pixels")
    result = live.worker.jobs.get(job.id).result
    assert result is not None
    assert seen.download(card) == ("holiday-2x.png", live.worker.blobs.get(result.key))

    border = page.get_by_label("Border between before and after")
    view = page.locator(".view")
    assert border.input_value() == "50"
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=4)
    page.mouse.up()
    assert float(border.input_value()) == pytest.approx(25, abs=0.5)
    assert view.evaluate("view => getComputedStyle(view.querySelector('.before')).clipPath").startswith("inset(0px 75%")


def test_a_picture_is_pasted(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    hand_over(seen.page, "paste", "image.png", picture())
    expect(seen.card("image.png")).to_contain_text("32 × 24 → 128 × 96")


def test_several_are_sent_at_once_and_each_has_its_own_end(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    for name in ("a.png", "b.png", "c.png"):
        seen.give(name, picture())
    expect(seen.page.get_by_role("button", name="Upscale 3 pictures")).to_be_enabled()
    seen.page.evaluate("for (const _ of [1, 2]) document.getElementById('options').requestSubmit()")  # a double click
    expect(seen.card("c.png")).to_contain_text("Waiting")
    live.worker.fail(JobFailed("the picture broke the worker twice"))
    with live.worker.working():
        expect(seen.card("b.png")).to_contain_text("Done")
        expect(seen.card("c.png")).to_contain_text("Done")
    expect(seen.card("a.png")).to_contain_text("the picture broke the worker twice")
    assert live.client.get("/jobs").json()["total"] == 3
    assert seen.card("a.png").get_by_role("button", name="Download").count() == 0
    seen.card("a.png").get_by_role("button", name="Again").click()
    expect(seen.page.get_by_role("button", name="Upscale", exact=True)).to_be_enabled()


def test_what_was_chosen_is_what_is_asked_for(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    page = seen.page
    page.get_by_label("Other").check()
    page.get_by_label("Factor").fill("1.5")
    page.get_by_label("Automatic creativity").uncheck()
    page.get_by_label("Creativity", exact=True).fill("-1.25")
    page.get_by_label("Format").select_option("webp")
    page.get_by_label("Quality").fill("80")
    page.get_by_label("Network").select_option("realesr-animevideov3")
    expect(page.locator("#creativity-note")).to_have_text("Strict: nothing is invented.")
    card = seen.give("p.png", picture(40, 20))
    expect(card).to_contain_text("40 × 20 → 60 × 30")
    seen.send()
    params = live.worker.claim().params
    assert (params.scale, params.creativity, params.format, params.quality) == (1.5, -1.25, "webp", 80)
    assert params.model == "realesr-animevideov3"


def test_creativity_is_left_to_the_server_until_it_is_set(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    expect(seen.page.get_by_label("Creativity", exact=True)).to_be_hidden()
    seen.give("one.png", picture())
    seen.send()
    assert live.worker.finish().params.creativity is None
    seen.page.get_by_label("Automatic creativity").uncheck()
    seen.give("two.png", picture(33, 21))
    seen.send()
    assert live.worker.finish().params.creativity == 0


def test_what_a_picture_shows_can_be_said_where_it_matters(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    page = seen.page
    shows = page.get_by_label("The picture shows")
    shows.select_option("text")
    card = seen.give("one.png", picture())
    expect(card).to_contain_text("a clean screen or print: fidelity-x4 keeps its letters")
    seen.send()
    assert live.worker.finish().params.content == "text"
    page.get_by_label("Automatic creativity").uncheck()
    expect(shows).to_be_hidden()
    seen.give("two.png", picture(33, 21))
    seen.send()
    assert live.worker.finish().params.content == "auto"
    page.get_by_label("Automatic creativity").check()
    page.get_by_label("Network").select_option("fidelity-x4")
    expect(shows).to_be_hidden()
    page.get_by_label("Network").select_option("auto")
    expect(shows).to_be_visible()


def test_the_networks_are_offered_with_their_forms(live: Live, visit: Visitor) -> None:
    seen = visit(live)
    expect(seen.page.get_by_label("Network")).to_contain_text("RealESRGAN_x4plus (package, fp16)")
    expect(seen.page.get_by_label("Network")).to_contain_text("fidelity-x4 (bundled)")


def test_a_running_job_is_cancelled(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    card = seen.give("p.png", picture())
    seen.send()
    job = live.worker.claim()
    expect(card).to_contain_text("Loading the networks")
    card.get_by_role("button", name="Cancel").click()
    expect(card).to_contain_text("Cancelling")
    expect(card).to_be_focused()  # because the button no longer exists
    assert live.worker.jobs.heartbeat(job, 0.5).name == "CANCEL"
    live.worker.jobs.cancelled(job)
    expect(card).to_contain_text("Cancelled")


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_picture_is_refused_in_words_beside_it(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    bad = seen.give("letter<b>.txt", b"Dear all")
    expect(bad.locator(".error")).to_contain_text("not a picture of a kind this server reads: JPEG, PNG")
    seen.give("good.png", picture())
    seen.send()
    assert live.worker.claim() and live.client.get("/jobs").json()["total"] == 1
    bad.get_by_role("button", name="Remove").click()
    expect(bad).to_have_count(0)
    seen.refused(422)


def test_a_result_that_can_not_be_is_said_before_it_is_asked_for(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    card = seen.give("wide.png", picture(6000, 10))
    seen.page.get_by_label("Format").select_option("webp")
    expect(card.locator(".error")).to_contain_text("webp can't hold 24000×40")
    expect(seen.page.get_by_role("button", name="Upscale")).to_be_disabled()
    seen.page.get_by_label("Format").select_option("png")
    expect(card.locator(".error")).to_be_hidden()
    expect(seen.page.get_by_role("button", name="Upscale")).to_be_enabled()
    seen.refused(400)


def test_a_kind_of_file_that_only_the_server_reads_works_as_well(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    card = seen.give("scan.tif", picture(kind="tiff"))
    expect(card).to_contain_text("32 × 24 → 128 × 96")
    seen.page.get_by_label("Format").select_option("tiff")
    seen.send()
    live.worker.finish()
    expect(card).to_contain_text("128 × 96 TIFF")
    expect(seen.page.get_by_text("This browser can’t show such a file")).to_be_visible()


def test_faces_are_not_offered_without_weights(live: Live, visit: Visitor) -> None:
    seen = visit(live)
    expect(seen.page.get_by_role("switch", name="Restore faces")).to_be_disabled(timeout=2000)
    expect(seen.page.locator("#faces-note")).to_contain_text("weights pull")


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_can_be_typed_in(live_server: LiveServer, visit: Visitor, picture: Picture) -> None:
    live = live_server(api_keys=("right", "other"))
    seen = visit(live)
    page = seen.page
    expect(page.get_by_role("alert")).to_have_text("This server asks for an API key.")
    field = page.get_by_label("API key of this server")
    field.fill("wrong")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("alert")).to_contain_text("Invalid API key")
    field.fill("right")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_be_hidden()
    seen.refused(401, 401)

    card = seen.give("p.png", picture())
    seen.send()
    live.worker.finish()
    expect(card).to_contain_text("Done")
    assert seen.download(card)[1]
    assert live.client.get("/jobs", headers={"Authorization": "Bearer other"}).json()["total"] == 0
    page.get_by_text("The same from a program").click()
    assert "right" not in page.locator("#curl").inner_text() + page.locator("#python").inner_text()
    page.reload()
    expect(page.locator("#recent .card")).to_have_count(1)
    assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []


# --- recent jobs ----------------------------------------------------------------------------------------------------


def test_jobs_of_other_programs_are_listed_shown_and_deleted(live: Live, visit: Visitor, picture: Picture) -> None:
    body = {"image": base64.b64encode(picture()).decode(), "scale": 2}
    live.client.post(VENDOR, json=body, headers={"Authorization": "Bearer any"}).raise_for_status()
    job = live.worker.finish()
    seen = visit(live)
    card = seen.card(f"Job {job.id[:8]}")
    expect(card).to_contain_text(re.compile("64 × 48 .* through wavespeed"))
    card.get_by_role("button", name="Show").click()
    expect(seen.page.get_by_role("img", name="After", exact=True)).to_be_visible()
    expect(seen.page.get_by_role("img", name="Before", exact=True)).to_be_visible()
    assert seen.page.eval_on_selector(".view .before img", "image => [image.naturalWidth, image.naturalHeight]") == [
        32,
        24,
    ]
    card.get_by_role("button", name="Delete").click()
    expect(seen.page.locator("#recent-none")).to_be_visible()
    assert live.client.get(f"/jobs/{job.id}").status_code == 404


# --- before and after -----------------------------------------------------------------------------------------------


@pytest.fixture
def compared(live: Live, visit: Visitor, picture: Picture) -> Visit:
    """One picture of 1600 × 1200, done."""
    seen = visit(live, viewport={"width": 1280, "height": 900})
    seen.give("p.png", picture(400, 300))
    seen.send()
    live.worker.finish()
    expect(seen.page.locator("#compare")).to_be_visible()
    return seen


def placed(page: Page, selector: str = ".after") -> tuple[float, float, float]:
    """Zoom, and offsets in the view."""
    matrix = page.eval_on_selector(f".view {selector}", "image => getComputedStyle(image).transform")
    zoom, _, _, _, x, y = (float(part) for part in matrix[len("matrix(") : -1].split(","))
    return zoom, x, y


def test_it_zooms_about_the_pointer_and_pans(compared: Visit) -> None:
    page = compared.page
    box = page.locator(".view").bounding_box()
    assert box is not None
    fit, *_ = placed(page)
    assert fit < 1
    at = box["width"] * 0.75, box["height"] * 0.25
    page.locator(".view").dblclick(position={"x": at[0], "y": at[1]})
    zoom, x, y = placed(page)
    assert zoom == 1 and page.locator(".zoom").inner_text() == "100 %"
    assert ((at[0] - x) / 1600, (at[1] - y) / 1200) == pytest.approx((0.75, 0.25), abs=0.01)  # what was there, is there
    assert placed(page, ".before img") == (zoom, x, y)
    page.mouse.move(box["x"] + 100, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 280)
    page.mouse.up()
    assert placed(page) == pytest.approx((1, x - 40, max(y - 20, box["height"] - 1200)), abs=1)
    page.mouse.move(box["x"] + 100, box["y"] + 300)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    expect(page.locator(".zoom")).not_to_have_text("100 %")
    assert placed(page)[0] > 2
    page.get_by_role("button", name="Fit").click()
    assert placed(page)[0] == fit


def test_the_lens_shows_both_at_one_to_one(compared: Visit) -> None:
    page = compared.page
    page.get_by_role("button", name="Lens").click()
    box = page.locator(".view").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    panes = page.locator(".pane")
    for number in range(2):
        assert panes.nth(number).is_visible()
        zoom, x, y = placed(page, f".pane:nth-child({number + 1}) img")
        side = panes.nth(number).evaluate("pane => pane.clientWidth")
        assert zoom == 1
        assert (side / 2 - x, side / 2 - y) == pytest.approx((400, 600), abs=2)


def test_all_can_be_done_with_the_keyboard(live: Live, visit: Visitor, picture: Picture, tmp_path: Path) -> None:
    seen = visit(live)
    page = seen.page
    file = tmp_path / "p.png"
    file.write_bytes(picture(400, 300))

    def tab_to(target: Locator) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                return
        pytest.fail(f"Tab does not lead to {target}")

    # NOTE: without a listener the first chooser may open before the browser is set to hand it over.
    page.on("filechooser", lambda _: None)
    tab_to(page.locator("#files"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file)
    expect(seen.card("p.png")).to_contain_text("Ready")
    tab_to(page.get_by_label("4×"))
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("2×")).to_be_checked()
    tab_to(page.get_by_label("Automatic creativity"))
    page.keyboard.press("Space")
    tab_to(page.get_by_label("Creativity", exact=True))
    page.keyboard.press("ArrowLeft")
    tab_to(page.get_by_role("button", name="Upscale"))
    page.keyboard.press("Enter")
    job = live.worker.finish()
    assert (job.params.scale, job.params.creativity) == (2, -0.25)
    expect(seen.card("p.png")).to_contain_text("Done")

    page.evaluate("document.activeElement.blur()")
    show = seen.card("p.png").get_by_role("button", name="Compare")
    tab_to(show)
    page.keyboard.press("Enter")
    border = page.get_by_label("Border between before and after")
    expect(border).to_be_focused()
    page.keyboard.press("ArrowLeft")
    assert border.get_attribute("aria-valuetext") == "49 % before"
    page.keyboard.press("Shift+Tab")
    expect(page.locator(".view")).to_be_focused()
    page.keyboard.press("1")
    zoom, x, _ = placed(page)
    assert zoom == 1
    page.keyboard.press("ArrowRight")
    assert placed(page)[1] == x - 48 or placed(page)[1] == page.locator(".view").evaluate("v => v.clientWidth") - 800


# --- accessibility --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
def test_nothing_stands_in_the_way_of_anybody(
    live: Live, visit: Visitor, picture: Picture, scheme: str, width: int
) -> None:
    seen = visit(live, color_scheme=scheme, viewport={"width": width, "height": 800})
    seen.give("a name that is long enough for a phone to cut it somewhere.png", picture())
    seen.give("letter.txt", b"Dear all")
    seen.send()
    live.worker.finish()
    expect(seen.page.locator("#compare")).to_be_visible()
    for summary in seen.page.locator("summary").all():
        summary.click()
    seen.page.get_by_label("Format").select_option("jpeg")
    found = Axe().run(seen.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found.response["violations"]] == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.refused(422)


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
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    seen.refused(401)
    name = """my "best" pic's.png"""
    (tmp_path / name).write_bytes(picture())
    seen.give(name, picture())
    page.get_by_label("2k").check()
    page.get_by_text("The same from a program").click()
    env = {"PATH": os.environ["PATH"], "API_KEY": "secret", "NO_PROXY": "*"}
    result = tmp_path / """my "best" pic's-2k.png"""
    for what, command in (("curl", ["bash", "-eu"]), ("Python", [sys.executable])):
        page.get_by_role("button", name=f"Copy as {what}").click()
        expect(page.get_by_role("status").first).to_have_text("Copied")
        text = page.evaluate("navigator.clipboard.readText()")
        with live.worker.working():
            run = subprocess.run(command, input=text, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        newest = live.worker.jobs.list(states=[State.SUCCEEDED])[0][0].result
        assert newest is not None and result.read_bytes() == live.worker.blobs.get(newest.key)
        result.unlink()
        page.evaluate("document.getElementById('said').textContent = ''")
