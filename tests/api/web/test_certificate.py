"""The certificate of a result: asked for by a switch, shown with the result."""

import pytest
from playwright.sync_api import expect

from tests.api.web.conftest import Visitor
from tests.conftest import Live, Picture


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_certificate_is_asked_for_and_shown_with_its_heat_map(
    live: Live, visit: Visitor, picture: Picture, colours: str
) -> None:
    seen = visit(live, viewport={"width": 390, "height": 800}, color_scheme=colours)
    page = seen.page
    page.get_by_role("switch", name="Certificate").press("Space")
    card = seen.give("p.png", picture(60, 40))
    seen.send()
    job = live.worker.finish()
    assert job.params.certificate and job.result is not None and job.result.certificate is not None
    details = card.locator(".certificate")
    table = details.get_by_role("table")
    expect(details.locator("summary")).to_be_visible()
    expect(table).to_be_hidden()
    details.locator("summary").press("Enter")
    expect(table).to_be_visible()
    facts = job.result.certificate
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()
    }
    assert rows["Difference from the picture, mean"] == [
        f"{facts['difference']['mean']:.2f}".rstrip("0"),
        "levels of 255",
    ]
    assert rows["Difference, largest"][1] == "levels of 255" and rows["Share of new fine detail"][1] == "%"
    assert {"Steps where tiles meet", "Likeness of face 1"} <= set(rows) and len(rows) == 8
    heat = details.get_by_role("img")
    expect(heat).to_have_attribute("alt", "Heat map of p.png: where detail is new")
    page.wait_for_function("image => image.complete && image.naturalWidth", arg=heat.element_handle())
    assert heat.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [60, 40]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert table.evaluate("table => getComputedStyle(table).color !== getComputedStyle(document.body).backgroundColor")


def test_a_result_without_a_certificate_shows_none(live: Live, visit: Visitor, picture: Picture) -> None:
    seen = visit(live)
    card = seen.give("p.png", picture())
    seen.send()
    assert not live.worker.finish().params.certificate
    expect(card).to_contain_text("Done")
    expect(card.locator(".certificate")).to_be_hidden()


def test_a_sheet_of_creativities_is_made_with_the_switch_on(live: Live, visit: Visitor, picture: Picture) -> None:
    """A sheet has no certificate, so none is asked for."""
    seen = visit(live)
    seen.page.get_by_role("switch", name="Certificate").check()
    card = seen.give("p.png", picture(80, 60))
    card.get_by_role("button", name="Try creativities").click()
    seen.press("Make the versions")
    expect(seen.page.get_by_role("dialog").get_by_role("status")).not_to_contain_text("certificate")
    job = live.worker.finish()
    assert job.params.sweep and not job.params.certificate
