"""/docs in a real browser: Swagger UI from the server's own files, on the documents of all APIs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from server.api.dialects import DIALECTS
from server.api.openapi.document import document
from server.api.page import FOLDER, SWAGGER_UI
from tests.conftest import Live, LiveServer

HTML = (FOLDER / "docs.html").read_text("utf-8")


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Page]:
    """At the end there must have been no error, no breach of the policy, and no request to elsewhere."""
    problems: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((live.url + "/", "data:", "blob:")) else problems.append(asked.url),
    )
    yield page
    page.close()
    assert problems == []


def test_the_page_and_its_parts_need_no_key_and_come_from_this_server(live_server: LiveServer) -> None:
    live = live_server(api_keys=("secret",))
    answer = live.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    parts = re.findall(r'(?:href|src)="([^"]+)"', HTML)
    assert not [part for part in parts if "//" in part]
    for part in parts:
        assert live.client.get(f"/{part}").status_code == 200, part
    for name, path in SWAGGER_UI.items():
        assert live.client.get(f"/docs/{name}").content == Path(path).read_bytes()
    for path in ("/docs/main.py", "/docs/..%2fmain.py", "/docs/"):
        assert live.client.get(path).status_code == (200 if path == "/docs/" else 404)


def test_each_api_can_be_chosen_and_has_all_its_operations(page: Page, live: Live) -> None:
    page.goto(f"{live.url}/docs")
    choice = page.get_by_role("combobox", name="API")
    expect(page.locator(".opblock").first).to_be_visible()
    assert set(choice.locator("option").all_text_contents()) == {each.NAME for each in DIALECTS} | {"all"}
    for dialect in DIALECTS:
        choice.select_option(dialect.NAME)
        expect(page.locator(".info .title")).to_contain_text(dialect.openapi.TITLE)
        operations = sum(len(methods) for methods in document((dialect,))["paths"].values())
        expect(page.locator(".opblock")).to_have_count(operations)
        assert page.url.endswith(f"/docs#{dialect.NAME}")


def test_a_link_leads_to_one_api_whose_requests_can_be_tried(page: Page, live: Live) -> None:
    page.goto(f"{live.url}/docs#native")
    expect(page.get_by_role("link", name="OpenAPI document")).to_have_attribute("href", "openapi/native.json")
    models = page.locator("#operations-native-models_models_get")
    models.locator(".opblock-summary-control").click()
    models.get_by_role("button", name="Try it out").click()
    models.get_by_role("button", name="Execute").click()
    expect(models.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(models.locator(".live-responses-table .response-col_description").last).to_contain_text("fidelity-x4")


def test_the_frame_of_the_page_passes_axe(page: Page, live: Live) -> None:
    """What is ours; Swagger UI's own parts are as they are."""
    page.goto(f"{live.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    found = Axe().run(page, context={"include": ["header"]})
    assert found.violations_count == 0, found.generate_report()
