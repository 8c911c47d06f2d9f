"""The options: what is chosen is what is asked for; presets; networks; the sheet of creativities."""

import pytest
from playwright.sync_api import Route, expect

from tests.api.web.conftest import Visitor
from tests.conftest import PANELS, Live, LiveServer, Picture


def test_what_was_chosen_is_what_is_asked_for(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    page = seen.page
    page.get_by_label("Factor").first.check()
    page.locator("#factor").fill("1.5")
    page.get_by_label("Automatic creativity").uncheck()
    page.get_by_label("Creativity", exact=True).fill("-1.25")
    page.get_by_label("Format").select_option("webp")
    page.get_by_label("Quality").fill("80")
    page.get_by_label("Photo data").select_option("strip")
    page.get_by_label("HDR pictures").select_option("tone-map")
    page.get_by_label("Seamless sides").select_option("xy")
    page.locator("#networks summary").click()
    page.get_by_role("radio", name="realesr-animevideov3").check()
    expect(page.locator("#creativity-note")).to_have_text("Strict: nothing is invented.")
    expect(seen.give("p.png", picture(40, 20))).to_contain_text("40 × 20 → 60 × 30")
    seen.send()
    params = live.worker.finish().params
    assert (params.scale, params.creativity, params.format, params.quality) == (1.5, -1.25, "webp", 80)
    assert (params.model, params.metadata, params.lossless) == ("realesr-animevideov3", "strip", False)
    assert params.hdr == "tone-map"
    assert params.wrap == "xy"
    page.get_by_label("Lossless").check()
    expect(page.get_by_label("Quality")).to_be_hidden()
    seen.give("q.png", picture(41, 20))
    seen.send()
    params = live.worker.finish().params
    assert (params.lossless, params.quality) == (True, None)


def test_an_exact_size_keeps_the_shape_of_each_picture_if_one_side_is_left_empty(
    live: Live, visit: Visitor, picture: Picture
) -> None:
    seen = visit(live)
    seen.page.get_by_label("Pixels", exact=True).check()
    seen.page.get_by_label("Width").fill("90")
    wide, high = seen.give("wide.png", picture(60, 20)), seen.give("high.png", picture(30, 60))
    expect(wide).to_contain_text("60 × 20 → 90 × 30")
    expect(high).to_contain_text("30 × 60 → 90 × 180")
    seen.page.get_by_label("Width").fill("")
    expect(seen.page.locator("#send")).to_be_enabled()
    seen.send()  # neither side: the browser asks for one
    assert live.client.get("/jobs").json()["total"] == 0
    seen.page.get_by_label("Height").fill("40")
    expect(wide).to_contain_text("60 × 20 → 120 × 40")
    seen.page.get_by_label("Width").fill("50")
    expect(high).to_contain_text("30 × 60 → 50 × 40")


def test_megapixels_are_the_area_of_each_picture_in_its_own_shape(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    seen.page.get_by_role("radio", name="Megapixels").check()
    seen.page.get_by_role("spinbutton", name="Megapixels").fill("0.06")
    wide, high = seen.give("wide.png", picture(60, 40)), seen.give("high.png", picture(30, 60))
    expect(wide).to_contain_text("60 × 40 → 300 × 200")
    expect(high).to_contain_text("30 × 60 → 173 × 346")
    seen.send()
    assert live.worker.finish().params.megapixels == 0.06


def test_the_print_preset_gives_the_pixels_for_a_size_on_paper(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    seen.press("Print")
    expect(seen.page.get_by_role("button", name="Print", exact=True)).to_have_attribute("aria-pressed", "true")
    wide, high = seen.give("wide.png", picture(60, 40)), seen.give("high.png", picture(40, 60))
    expect(wide).to_contain_text("→ 3,543 × 2,362")
    expect(high).to_contain_text("→ 2,362 × 3,543")
    seen.page.get_by_label("Longer side").fill("2")
    seen.page.get_by_label("Unit").select_option("in")
    expect(wide).to_contain_text("→ 600 × 400")
    expect(seen.page.locator("#size-note")).to_have_text("The longer side will have 600 pixels.")
    expect(seen.page.get_by_role("button", name="Print", exact=True)).to_have_attribute("aria-pressed", "false")
    seen.send()
    assert live.worker.finish().params.size in ((600, 400), (400, 600))


@pytest.mark.parametrize(
    ("preset", "content", "model", "form"),
    [
        ("Photo", "photo", "auto", "jpeg"),
        ("Drawing", "auto", "RealESRGAN_x4plus_anime_6B", "png"),
        ("Text", "text", "auto", "png"),
    ],
)
def test_a_preset_sets_what_its_task_needs(
    live: Live, visit: Visitor, picture: Picture, preset: str, content: str, model: str, form: str
) -> None:
    seen = visit(live)
    seen.press(preset)
    seen.give("p.png", picture())
    seen.send()
    params = live.worker.finish().params
    assert (params.scale, params.content, params.model, params.format) == (4, content, model, form)


def test_creativity_and_content_are_left_to_the_server_until_they_are_set(
    live: Live, visit: Visitor, picture: Picture
) -> None:
    seen = visit(live)
    page = seen.page
    shows = page.get_by_label("What it shows")
    expect(page.get_by_label("Creativity", exact=True)).to_be_hidden()
    shows.select_option("text")
    expect(seen.give("one.png", picture())).to_contain_text("A clean screen or print: fidelity-x4 keeps its letters")
    seen.send()
    params = live.worker.finish().params
    assert (params.creativity, params.content) == (None, "text")
    page.get_by_label("Automatic creativity").uncheck()
    expect(shows).to_be_hidden()
    seen.give("two.png", picture(33, 21))
    seen.send()
    params = live.worker.finish().params
    assert (params.creativity, params.content) == (0, "auto")


def test_faces_say_in_one_line_what_to_do(live: Live, visit: Visitor) -> None:
    seen = visit(live)
    expect(seen.page.get_by_role("switch", name="Restore faces")).to_be_disabled()
    expect(seen.page.locator("#faces-note")).to_have_text(
        "To switch this on, run on the server: python -m server weights pull gfpgan"
    )


def test_faces_are_offered_with_their_weights(live_server: LiveServer, visit: Visitor, picture: Picture) -> None:
    live = live_server()
    for name in ("GFPGANv1.4.pth", "detection_Resnet50_Final.pth"):
        (live.config.weights_path / name).write_bytes(b"the API half only looks whether it is there")
    seen = visit(live)
    seen.page.get_by_role("switch", name="Restore faces").check()
    seen.give("p.png", picture())
    seen.send()
    assert live.worker.finish().params.faces is not None


# --- the sheet of creativities --------------------------------------------------------------------------------------


def test_a_creativity_is_chosen_on_a_part_before_the_whole_is_made(
    live: Live, visit: Visitor, picture: Picture
) -> None:
    seen = visit(live, viewport={"width": 1280, "height": 900})
    page, dialog = seen.page, seen.page.get_by_role("dialog")
    page.get_by_label("8k").check()
    card = seen.give("p.png", picture(800, 600))
    card.get_by_role("button", name="Try creativities").click()
    stage = dialog.locator(".stage")
    box = stage.bounding_box()
    assert box is not None
    stage.click(position={"x": box["width"] * 0.75, "y": box["height"] * 0.5})
    part = dialog.locator(".part").bounding_box()
    assert part is not None  # 512 of 8,192 pixels, in the middle of the click
    assert part["width"] == pytest.approx(box["width"] / 16, abs=1)
    assert (part["x"] + part["width"] / 2 - box["x"]) / box["width"] == pytest.approx(0.75, abs=0.01)
    dialog.get_by_label("Down").press("ArrowUp")
    seen.press("Make the versions")
    job = live.worker.claim()
    assert job.params.sweep and (job.params.target, job.params.creativity) == ("8k", None)
    assert job.params.sweep_at == (600, 294)  # a hundredth of the picture higher than the click
    live.worker.jobs.heartbeat(job, 0.4)
    expect(dialog).to_contain_text("Making five versions, 40 %")
    live.worker.finish(job)
    panels = dialog.locator(".panel")
    expect(panels).to_have_count(6)
    middles = """panels => Promise.all(panels.map(async panel => {
        const image = panel.querySelector("img"), pane = panel.querySelector(".pane");
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
        canvas.drawImage(image, 0, 0);
        const [a, b] = [image.getBoundingClientRect(), pane.getBoundingClientRect()];
        const at = (share) => [
          (b.left + b.width * share - a.left) / a.width * image.naturalWidth,
          (b.top + b.height * share - a.top) / a.height * image.naturalHeight];
        return [0.04, 0.96].map(share => canvas.getImageData(...at(share), 1, 1).data.slice(0, 3).join());
    }))"""
    colours = {"black": "0,0,0", "red": "255,0,0", "lime": "0,255,0", "blue": "0,0,255", "yellow": "255,255,0"}
    expected = [colours.get(name, "255,255,255") for name in PANELS]
    assert panels.evaluate_all(middles) == [[each, each] for each in expected]

    seen.press("Use creativity +1 creative")
    expect(dialog).to_be_hidden()
    expect(page.get_by_label("Creativity", exact=True)).to_have_value("1")
    expect(card).to_contain_text("Ready")
    seen.send()
    params = live.worker.finish().params
    assert (params.target, params.creativity, params.sweep) == ("8k", 1, False)
    assert live.client.get("/jobs").json()["total"] == 1  # the sheet was deleted


def test_closing_the_dialog_while_the_sheet_is_sent_cancels_it(live: Live, visit: Visitor, picture: Picture) -> None:
    def close_before_the_answer(route: Route) -> None:
        answer = route.fetch()
        seen.page.keyboard.press("Escape")
        route.fulfill(response=answer)

    seen = visit(live)
    seen.give("p.tif", picture(80, 60, kind="tiff")).get_by_role("button", name="Try creativities").click()
    seen.page.route("**/jobs", close_before_the_answer)
    seen.press("Make the versions")
    expect(seen.page.get_by_role("dialog")).to_be_hidden()
    for _ in range(100):
        if live.worker.jobs.counts().get("queued", 0) == 0:
            break
        seen.page.wait_for_timeout(50)
    assert live.client.get("/jobs").json()["total"] == 0


def test_closing_the_dialog_cancels_the_sheet(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    seen.give("p.tif", picture(80, 60, kind="tiff")).get_by_role("button", name="Try creativities").click()
    seen.press("Make the versions")
    job = live.worker.claim()
    seen.page.keyboard.press("Escape")
    expect(seen.page.get_by_role("dialog")).to_be_hidden()
    for _ in range(100):
        if live.worker.jobs.heartbeat(job, 0.1).name == "CANCEL":
            break
        seen.page.wait_for_timeout(20)
    live.worker.jobs.cancelled(job)
    for _ in range(100):
        if not live.client.get("/jobs").json()["total"]:
            break
        seen.page.wait_for_timeout(50)
    assert live.client.get("/jobs").json()["total"] == 0


def test_the_versions_are_seen_at_one_to_one_and_all_at_the_same_place(
    live: Live, visit: Visitor, picture: Picture
) -> None:
    seen = visit(live, viewport={"width": 390, "height": 844})
    seen.give("p.png", picture(800, 600)).get_by_role("button", name="Try creativities").click()
    seen.press("Make the versions")
    live.worker.finish()
    panes = seen.page.locator(".panel .pane")
    expect(panes).to_have_count(6)
    width = panes.first.evaluate("pane => pane.clientWidth")
    places = """panes => panes.map((pane, index) => {
        const [image, at] = [pane.firstElementChild.getBoundingClientRect(), pane.getBoundingClientRect()];
        return [image.width / 3, at.left - image.left - index % 3 * image.width / 3];
    })"""
    hidden = 512 - width
    assert panes.evaluate_all(places) == [[512, pytest.approx(hidden * 0.5, abs=1)]] * 6
    seen.page.locator(".panels").focus()
    seen.page.keyboard.press("ArrowRight")
    assert panes.evaluate_all(places) == [[512, pytest.approx(hidden * 0.6, abs=1)]] * 6
    seen.press("One to one")
    assert panes.evaluate_all(places) == [[pytest.approx(width, abs=1), pytest.approx(0, abs=1)]] * 6
