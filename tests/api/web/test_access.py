"""For all visitors: the keyboard alone, small screens, dark and light colours, and what axe-core checks."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Locator, Page, expect

from server.errors import JobFailed
from tests.api.web.conftest import Visit, Visitor
from tests.api.web.test_compare import placed
from tests.conftest import Live, Picture

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(page: Page) -> list[Any]:
    found = Axe().run(page, options={"runOnly": RULES})
    return [(each["id"], [node["target"] for node in each["nodes"]]) for each in found.response["violations"]]


def in_each_state(seen: Visit, picture: Picture) -> None:
    """Pictures refused, ready, waiting, running, done, failed and cancelled; all that can be opened is open."""
    live, page = seen.live, seen.page
    for name in ("one that failed.png", "done.png", "runs.tif", "waits.png", "cancelled.png"):
        seen.give(name, picture(kind="tiff" if name.endswith("tif") else "png"))
        seen.send()
        expect(seen.card(name)).to_contain_text("Waiting")
    seen.card("cancelled.png").get_by_role("button", name="Cancel").click()
    live.worker.fail(JobFailed("the picture broke the worker twice"))
    live.worker.finish()
    live.worker.jobs.heartbeat(live.worker.claim(), 0.4)
    seen.give("a name that is long enough for a phone to cut it somewhere.png", picture())
    seen.give("letter.txt", b"Dear all")
    expect(page.locator("#compare")).to_be_visible()
    expect(seen.card("runs.tif")).to_contain_text("40 %")
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.get_by_label("Format").select_option("webp")
    page.get_by_label("Automatic creativity").uncheck()
    page.get_by_label("For print").check()


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 390),
        pytest.param("dark", 1280, marks=pytest.mark.slow),
        pytest.param("dark", 320, marks=pytest.mark.slow),
    ],
)
def test_nothing_stands_in_the_way(live: Live, visit: Visitor, picture: Picture, scheme: str, width: int) -> None:
    seen = visit(live, color_scheme=scheme, viewport={"width": width, "height": 844})
    page = seen.page
    in_each_state(seen, picture)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Try creativities").click()
    assert violations(page) == []
    assert page.get_by_role("dialog").evaluate("dialog => dialog.scrollWidth") <= width
    seen.refused(422)


def test_on_a_phone_the_button_is_in_reach_without_scrolling(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png", "f.png"):
        seen.give(name, picture())
    button = seen.page.locator("#send")
    expect(button).to_be_in_viewport(ratio=1)
    seen.page.locator("#earlier").scroll_into_view_if_needed()
    expect(button).to_be_in_viewport(ratio=1)
    button.tap()
    expect(seen.page.locator("#total")).to_contain_text("0 of 6 pictures done")


def test_on_a_low_screen_the_button_is_in_reach_too(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live, viewport={"width": 1280, "height": 640})
    seen.page.locator("#networks summary").click()
    seen.page.evaluate("window.scrollTo(0, 0)")
    expect(seen.page.locator("#send")).to_be_in_viewport(ratio=1)


def test_all_can_be_done_with_the_keyboard(live: Live, visit: Visitor, picture: Picture, tmp_path: Path) -> None:
    seen = visit(live)
    page = seen.page
    file = tmp_path / "p.png"
    file.write_bytes(picture(400, 300))

    def tab_to(target: Locator) -> None:
        for _ in range(60):
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
    tab_to(page.locator("#networks summary"))
    page.keyboard.press("Enter")
    tab_to(page.get_by_role("radio", name="Automatic", exact=False).last)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#networks .chosen")).to_have_text("fidelity-x4")

    tab_to(seen.card("p.png").get_by_role("button", name="Try creativities"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    tab_to(dialog.get_by_label("Across"))
    page.keyboard.press("ArrowRight")
    tab_to(dialog.get_by_role("button", name="Make the versions"))
    page.keyboard.press("Enter")
    assert live.worker.finish().params.sweep_at == (204, 150)
    expect(dialog.locator(".panel")).to_have_count(6)
    tab_to(dialog.get_by_role("button", name="Use creativity −1 faithful"))
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()

    tab_to(page.locator("#send"))
    page.keyboard.press("Enter")
    job = live.worker.finish()
    assert (job.params.scale, job.params.creativity, job.params.model) == (2, -1, "fidelity-x4")
    expect(seen.card("p.png").first).to_contain_text("Done")

    page.evaluate("document.activeElement.blur()")
    tab_to(seen.card("p.png").get_by_role("button", name="Compare"))
    page.keyboard.press("Enter")
    border = page.get_by_label("Border between the two pictures")
    expect(border).to_be_focused()
    page.keyboard.press("ArrowLeft")
    assert border.get_attribute("aria-valuetext") == "49 % of the left picture"
    page.keyboard.press("Shift+Tab")
    expect(page.locator(".view")).to_be_focused()
    page.keyboard.press("1")
    zoom, x, _ = placed(page)
    assert zoom == 1
    page.keyboard.press("ArrowRight")
    assert placed(page)[1] == x - 48 or placed(page)[1] == page.locator(".view").evaluate("v => v.clientWidth") - 800
