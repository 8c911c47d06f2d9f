"""The comparison: before and after, two results, zoom, lens."""

import pytest
from playwright.sync_api import Page, expect

from tests.api.web.conftest import Visit, Visitor
from tests.conftest import Live, Picture


@pytest.fixture
def compared(live: Live, visit: Visitor, picture: Picture) -> Visit:
    """One picture of 1600 × 1200, done."""
    seen = visit(live, viewport={"width": 1280, "height": 900})
    seen.give("p.png", picture(400, 300))
    seen.send()
    live.worker.finish()
    expect(seen.page.locator("#compare")).to_be_visible()
    return seen


def placed(page: Page, selector: str = ".right") -> tuple[float, float, float]:
    """Zoom, and offsets in the view."""
    matrix = page.eval_on_selector(f".view {selector}", "image => getComputedStyle(image).transform")
    zoom, _, _, _, x, y = (float(part) for part in matrix[len("matrix(") : -1].split(","))
    return zoom, x, y


def test_the_border_is_dragged(compared: Visit) -> None:
    page = compared.page
    border, view = page.get_by_label("Border between the two pictures"), page.locator(".view")
    assert border.input_value() == "50"
    box = view.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=4)
    page.mouse.up()
    assert float(border.input_value()) == pytest.approx(25, abs=0.5)
    assert view.evaluate("view => getComputedStyle(view.querySelector('.left')).clipPath").startswith("inset(0px 75%")


def test_two_results_of_a_picture_are_compared(compared: Visit, picture: Picture) -> None:
    page, live = compared.page, compared.live
    left, right = page.get_by_label("Left"), page.get_by_label("Right")
    expect(left).to_be_hidden()  # as long as there is only one
    compared.card("p.png").get_by_role("button", name="Again").click()
    page.get_by_label("2×").check()
    expect(page.locator("#summary")).to_contain_text("800 × 600")
    compared.give("square.png", picture(300, 300))  # of another shape, so not among them
    compared.send()
    with live.worker.working():
        expect(page.locator("#total")).to_contain_text("3 of 3 pictures done")
    options = left.locator("option").all_inner_texts()
    assert [each.split(",")[0] for each in options] == ["Before", "1", "800 × 600"]
    left.select_option(index=2)
    expect(page.locator(".tag-left")).to_contain_text("800 × 600")
    expect(page.locator(".tag-right")).to_contain_text("1,600 × 1,200")
    sizes = "images => Promise.all(images.map(image => image.decode().then(() => image.naturalWidth)))"
    assert page.eval_on_selector_all(".view > .left img, .view > .right", sizes) in ([1600, 800], [800, 1600])
    assert placed(page) == placed(page, ".left img")  # the same view of both
    right.select_option("before")
    expect(page.locator(".tag-right")).to_have_text("Before")


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
    assert placed(page, ".left img") == (zoom, x, y)
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
    compared.press("Fit")
    assert placed(page)[0] == fit


def test_the_lens_shows_both_at_one_to_one(compared: Visit) -> None:
    page = compared.page
    compared.press("Lens")
    box = page.locator(".view").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    panes = page.locator(".lens .pane")
    for number in range(2):
        assert panes.nth(number).is_visible()
        zoom, x, y = placed(page, f".lens .pane:nth-child({number + 1}) img")
        side = panes.nth(number).evaluate("pane => pane.clientWidth")
        assert zoom == 1
        assert (side / 2 - x, side / 2 - y) == pytest.approx((400, 600), abs=2)
