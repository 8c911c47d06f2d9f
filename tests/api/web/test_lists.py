"""The lists of pictures: what is refused at once, what is sent in which order, what a reload keeps, earlier jobs."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Locator, expect

from server.errors import JobFailed
from server.weights.rates import write_rates
from tests import hdr
from tests.api.web.conftest import Visit, Visitor
from tests.conftest import Live, LiveServer, Picture
from tests.pictures import FILES

VENDOR = "/api/v3/wavespeed-ai/real-esrgan"


def is_shown(card: Locator) -> bool:
    """Its small picture, rather than the sign for one that there is none of."""
    shown: bool = card.locator(".thumb").evaluate("image => !image.hidden && image.complete && image.naturalWidth > 0")
    return shown


def until(condition: Callable[[], bool], seen: Visit) -> None:
    for _ in range(100):
        if condition():
            return
        seen.page.wait_for_timeout(50)
    pytest.fail("it did not become true")


# --- what is refused ------------------------------------------------------------------------------------------------

UNREADABLE = {
    "letter<b>.txt": (b"Dear all", "The file is not a picture of a kind this server reads: JPEG, PNG"),
    "logo.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "The file is an SVG drawing"),
    "photo.raf": (b"FUJIFILMCCD-RAW " + bytes(100_000), "Fujifilm RAF"),
    "photo.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(1000), "Canon CR2"),
    "clip.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "The file is a video"),
}


def test_what_can_not_be_read_is_refused_as_soon_as_it_is_added(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    for name, (data, _) in UNREADABLE.items():
        seen.page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": data})
    for name, (_, reason) in UNREADABLE.items():
        expect(seen.card(name).locator(".error")).to_contain_text(reason)
    expect(seen.page.locator("#send")).to_be_disabled()
    seen.give("good.png", picture())
    seen.send()
    assert live.worker.claim() and live.client.get("/jobs").json()["total"] == 1
    seen.card("logo.svg").get_by_role("button", name="Remove").click()
    expect(seen.card("logo.svg")).to_have_count(0)
    seen.press("Clear finished")
    assert seen.names() == ["good.png"]
    seen.refused(*[422] * len(UNREADABLE))


def test_a_result_that_can_not_be_is_said_before_it_is_asked_for(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    card = seen.give("wide.png", picture(6000, 10))
    seen.page.get_by_label("Format").select_option("webp")
    expect(card.locator(".error")).to_contain_text("Webp can't hold 24,000×40")
    expect(seen.page.locator("#send")).to_be_disabled()
    seen.page.get_by_label("Format").select_option("png")
    expect(card.locator(".error")).to_be_hidden()
    expect(seen.page.locator("#send")).to_be_enabled()
    seen.refused(400)


def test_limits_are_stated_with_a_remedy(live_server: LiveServer, visit: Visitor, picture: Picture) -> None:
    live = live_server(max_source_bytes=50_000, max_source_pixels=40_000, max_result_pixels=100_000)
    seen = visit(live)
    seen.page.wait_for_load_state("networkidle")  # afterwards it knows the limits
    long, many, large = picture(10, 10) + bytes(60_000), picture(300, 200), picture(150, 100)
    expect(seen.give("long.png", long).locator(".error")).to_contain_text(
        "60.1 kB, and this server takes at most 50 kB: save it as JPEG, or raise UPSCALE_MAX_SOURCE_BYTES"
    )
    expect(seen.give("many.png", many).locator(".error")).to_contain_text(
        "300 × 200 pixels, and this server takes at most 40,000: make it smaller first"
    )
    expect(seen.give("large.png", large).locator(".error")).to_contain_text(
        "limit of 100,000 pixels; for this picture, use a scale of at most 2.58"
    )
    seen.page.get_by_label("2×").check()
    expect(seen.card("large.png")).to_contain_text("Ready")
    seen.refused(400)


@pytest.mark.parametrize(("name", "size"), [("scan.tif", "32 × 24"), ("phone.heic", "64 × 48")])
def test_what_only_the_server_can_read_is_shown_and_compared_too(
    live: Live, visit: Visitor, picture: Picture, name: str, size: str
) -> None:
    seen = visit(live)
    heic = (FILES / "turned.heic").read_bytes()
    card = seen.give(name, heic if name.endswith("heic") else picture(kind="tiff"))
    expect(card).to_contain_text(f"{size} → ")
    until(lambda: is_shown(card), seen)
    seen.page.get_by_label("Format").select_option("tiff")
    seen.send()
    live.worker.finish()
    expect(card).to_contain_text("TIFF")
    widths = "images => images.map(image => image.complete ? image.naturalWidth : 0)"
    until(lambda: all(seen.page.eval_on_selector_all(".view > .left img, .view > .right", widths)), seen)
    expect(seen.page.get_by_text("This browser can’t show such a file")).to_be_hidden()


def test_an_hdr_photo_of_a_phone_is_looked_at_and_sent_as_what_can_hold_it(live: Live, visit: Visitor) -> None:
    seen = visit(live)
    files = ((FILES / f"hdr_{name}.heic").read_bytes() for name in ("base", "gain"))
    card = seen.give("phone.heic", hdr.in_heif(*files, 0.0, 3.0))
    expect(card).to_contain_text("64 × 48 → 256 × 192")
    seen.send()  # as PNG
    expect(card.locator(".error")).to_contain_text("The source is HDR (gain map), which png can't hold here; use jpeg")
    seen.refused(400)
    seen.page.get_by_label("Format").select_option("jpeg")
    expect(card).to_contain_text("Ready")
    seen.send()
    params = live.worker.finish().params
    assert (params.format, params.hdr) == ("jpeg", "keep")


# --- sending --------------------------------------------------------------------------------------------------------


def test_a_large_file_shows_how_much_is_sent_and_holds_up_no_small_one(
    live: Live, visit: Visitor, picture: Picture, tmp_path: Path
) -> None:
    seen = visit(live)
    (tmp_path / "large.bmp").write_bytes(picture(1800, 1700, kind="bmp"))  # 9 MB
    seen.page.set_input_files("#files", tmp_path / "large.bmp")
    large = seen.card("large.bmp")
    expect(large).to_contain_text("Ready")
    for name in ("a.png", "b.png", "c.png"):
        seen.give(name, picture())
    tab = seen.page.context.new_cdp_session(seen.page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 4_000_000}
    tab.send("Network.emulateNetworkConditions", slow)
    seen.send()
    expect(large).to_contain_text(re.compile("Sending, [1-9][0-9]? %"))
    assert large.get_by_role("progressbar").evaluate("bar => bar.value") > 0
    for name in ("a.png", "b.png", "c.png"):
        expect(seen.card(name)).to_contain_text("Waiting for its turn")
    expect(large).to_contain_text("Sending")
    large.get_by_role("button", name="Cancel").click()
    expect(large).to_contain_text("Ready")
    assert live.client.get("/jobs").json()["total"] == 3


def test_several_are_sent_at_once_and_each_has_its_own_end(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    for name in ("a.png", "b.png", "c.png"):
        seen.give(name, picture())
    expect(seen.page.get_by_role("button", name="Upscale 3 pictures")).to_be_enabled()
    seen.page.evaluate("for (const _ of [1, 2]) document.getElementById('options').requestSubmit()")  # a double click
    expect(seen.page.get_by_text("Waiting for its turn")).to_have_count(3)
    failed = live.worker.fail(JobFailed("the picture broke the worker twice")).request["name"]
    with live.worker.working():
        expect(seen.page.locator("#total")).to_contain_text("2 of 3 pictures done, 1 without a result")
    expect(seen.card(failed)).to_contain_text("The picture broke the worker twice.")
    assert live.client.get("/jobs").json()["total"] == 3
    assert seen.card(failed).get_by_role("button", name="Download").count() == 0
    seen.card(failed).get_by_role("button", name="Again").click()
    expect(seen.page.get_by_role("button", name="Upscale", exact=True)).to_be_enabled()


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


# --- a reload -------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_names_small_pictures_options_and_running_jobs(
    live: Live, visit: Visitor, picture: Picture
) -> None:
    seen = visit(live)
    page = seen.page
    page.get_by_label("2×").check()
    page.get_by_label("Format").select_option("webp")
    page.get_by_label("Lossless").check()
    for name in ("done.png", "runs.png", "waits.tif"):
        seen.give(name, picture(kind="tiff" if name.endswith("tif") else "png"))
    seen.send()
    expect(page.get_by_text("Waiting for its turn")).to_have_count(3)
    jobs = {job.request["name"]: job for job in live.worker.jobs.list()[0]}
    names = [live.worker.finish().request["name"]]
    running = live.worker.claim()
    names.append(running.request["name"])
    live.worker.jobs.heartbeat(running, 0.25)
    expect(seen.card(names[1])).to_contain_text("25 %")
    before = seen.names()

    page.reload()
    expect(seen.card(names[1])).to_contain_text("25 %")
    assert seen.names() == before and set(before) == set(jobs)
    expect(page.locator("#total")).to_contain_text("1 of 3 pictures done")
    until(lambda: all(is_shown(seen.card(name)) for name in before), seen)
    expect(page.get_by_label("2×")).to_be_checked()
    expect(page.get_by_label("Format")).to_have_value("webp")
    expect(page.get_by_label("Lossless")).to_be_checked()
    live.worker.finish(running)
    expect(seen.card(names[1])).to_contain_text("Done")
    seen.card(names[0]).get_by_role("button", name="Again").click()  # its file is now only on the server
    expect(page.locator("#summary")).to_contain_text("64 × 48")
    seen.send()
    expect(seen.page.get_by_text("Waiting for its turn")).to_have_count(2)
    assert live.worker.finish().params.scale == live.worker.finish().params.scale == 2


def test_leaving_with_pictures_that_are_not_sent_asks_first(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    seen.give("p.png", picture())
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    seen.page.on("dialog", stay)
    seen.page.locator("#options-title").click()  # browsers ask only those who have used the page
    seen.page.reload()
    assert asked == ["beforeunload"]


# --- earlier jobs ---------------------------------------------------------------------------------------------------


def test_earlier_jobs_come_in_pages_and_new_ones_move_nothing(live: Live, visit: Visitor, picture: Picture) -> None:
    data = picture(4, 4)

    def submit(number: int) -> None:
        answer = live.client.post("/jobs", files={"file": (f"{number}.png", data)}, data={"scale": "1"})
        answer.raise_for_status()

    for number in range(25):
        submit(number)
    seen = visit(live)
    more = seen.page.locator("[data-do=more]")
    expect(more).to_have_text("Show more (5 older)")
    assert seen.names("#earlier") == [f"{number}.png" for number in range(24, 4, -1)]
    submit(25)
    expect(seen.page.locator("#earlier .card").first).to_contain_text("25.png", timeout=20_000)  # at the next look
    more.click()
    expect(more).to_be_hidden()
    assert seen.names("#earlier") == [f"{number}.png" for number in range(25, -1, -1)]


def test_jobs_of_other_programs_are_listed_shown_and_deleted(live: Live, visit: Visitor, picture: Picture) -> None:
    body = {"image": base64.b64encode(picture()).decode(), "scale": 2}
    live.client.post(VENDOR, json=body, headers={"Authorization": "Bearer any"}).raise_for_status()
    job = live.worker.finish()
    seen = visit(live)
    card = seen.card(f"Job {job.id[:8]}")
    expect(card).to_contain_text(re.compile("64 × 48 .* through wavespeed"))
    until(lambda: is_shown(card), seen)
    card.get_by_role("button", name="Compare").click()
    expect(seen.page.get_by_role("img", name="After", exact=True)).to_be_visible()
    size = "image => [image.naturalWidth, image.naturalHeight]"
    until(lambda: seen.page.eval_on_selector(".view .left img", size) == [32, 24], seen)
    card.get_by_role("button", name="Delete").click()
    expect(seen.page.locator("#earlier-none")).to_be_visible()
    assert live.client.get(f"/jobs/{job.id}").status_code == 404


def test_time_is_estimated_for_what_is_ready(live_server: LiveServer, visit: Visitor, picture: Picture) -> None:
    live = live_server()
    write_rates(live.config.cache_dir, "this machine", {"fidelity-x4": 1000})
    seen = visit(live)
    expect(seen.give("p.png", picture(300, 200))).to_contain_text("about 60 s")
    seen.give("q.png", picture(300, 200))
    expect(seen.page.locator("#summary")).to_contain_text("about 2 min")
    seen.page.locator("#networks summary").click()
    named = seen.page.locator(".network", has_text="fidelity-x4")
    expect(named).to_contain_text("invents nothing")
    expect(named).to_contain_text("About 2 min for the pictures that are ready.")
    expect(seen.page.locator(".network", has_text="anime_6B")).to_contain_text("Its time here is not known yet.")
