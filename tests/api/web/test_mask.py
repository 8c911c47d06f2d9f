"""Parts that are protected: drawn, typed, or said by a picture; and grain."""

from playwright.sync_api import expect

from tests.api.web.conftest import Visitor
from tests.conftest import Live, Picture


def test_boxes_are_drawn_or_typed(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live, viewport={"width": 1280, "height": 900})
    page, dialog = seen.page, seen.page.get_by_role("dialog")
    card = seen.give("p.png", picture(800, 600))
    card.get_by_role("button", name="Protect parts").click()
    box = dialog.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.75)
    page.mouse.up()
    drawn = [int(each.input_value()) for each in dialog.get_by_role("spinbutton").all()]
    assert all(abs(one - other) <= 2 for one, other in zip(drawn, (200, 300, 200, 150), strict=True))

    dialog.get_by_role("button", name="Add a box").press("Enter")  # and no mouse from here on
    expect(dialog.get_by_label("Left").last).to_be_focused()
    for name, value in (("Left", "7"), ("Top", "8"), ("Width", "0"), ("Height", "10")):
        dialog.get_by_label(name, exact=True).last.fill(value)
    dialog.get_by_role("button", name="Use it").press("Enter")
    expect(dialog).to_be_visible()  # a box of no width
    dialog.get_by_label("Width").last.fill("9")
    expect(dialog.locator(".stage .box")).to_have_count(2)
    dialog.get_by_role("combobox").select_option("outside")
    dialog.get_by_role("button", name="Use it").press("Enter")
    expect(dialog).to_be_hidden()
    expect(card.get_by_role("button", name="Protected parts")).to_be_visible()
    expect(card).to_contain_text("Ready")
    seen.send()
    mask = live.worker.finish().params.mask
    assert mask is not None and mask.keep == "outside" and mask.boxes == (tuple(drawn), (7, 8, 9, 10))


def test_boxes_are_changed_and_taken_away_again(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    dialog = seen.page.get_by_role("dialog")
    card = seen.give("p.png", picture(80, 60))
    for _ in range(2):
        card.get_by_role("button", name="Protect").click()
        dialog.get_by_role("button", name="Add a box").click()
        dialog.get_by_role("button", name="Use it").click()
    card.get_by_role("button", name="Protected parts").click()
    expect(dialog.locator(".boxes li")).to_have_count(2)
    dialog.get_by_role("button", name="Remove").first.click()
    expect(dialog.locator(".stage .box")).to_have_count(1)
    dialog.get_by_role("button", name="Protect nothing").click()
    expect(card.get_by_role("button", name="Protect parts")).to_be_visible()
    seen.send()
    assert live.worker.finish().params.mask is None


def test_a_picture_says_what_is_protected(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    dialog = seen.page.get_by_role("dialog")
    card = seen.give("p.png", picture(80, 60))
    card.get_by_role("button", name="Protect parts").click()
    data = picture(8, 8)
    dialog.locator("[type=file]").set_input_files({"name": "white.png", "mimeType": "image/png", "buffer": data})
    expect(dialog).to_contain_text("white.png says what is protected")
    dialog.get_by_role("button", name="Use it").click()
    expect(card).to_contain_text("Ready")
    seen.send()
    mask = live.worker.finish().params.mask
    assert mask is not None and mask.boxes is None and live.worker.blobs.get(mask.image or "") == data


def test_grain_is_asked_for_by_its_share(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    seen.page.get_by_label("Grain").fill("0.35")
    expect(seen.page.locator("#grain-value")).to_have_text("35 %")
    seen.give("p.png", picture())
    seen.send()
    assert live.worker.finish().params.grain == 0.35
