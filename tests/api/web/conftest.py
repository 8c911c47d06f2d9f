"""The web page in a real browser, against a real server with a fast stand-in for the worker. All tests of this folder
share one browser, and nearly all of them one server, which each leaves without jobs.

Needs Chromium or Chrome: on the path, or named by UPSCALE_TEST_BROWSER. Nothing is downloaded.
"""

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from server.api.app import create_app
from server.config import Config
from tests.conftest import LOOPBACK, Live, open_browser, serve

Visitor = Callable[..., "Visit"]


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
        found = [re.search(r"status of (\d+)", each) for each in self.problems]
        assert [int(each[1]) if each else None for each in found] == list(statuses), self.problems
        self.problems.clear()

    def give(self, name: str, data: bytes) -> Locator:
        """Choose a file, and its card once it has been looked at."""
        self.page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": data})
        card = self.card(name)
        expect(card).not_to_contain_text("Checking")
        return card

    def card(self, name: str) -> Locator:
        return self.page.locator(".card").filter(has=self.page.get_by_text(name, exact=True)).last

    def names(self, of: str = "#pictures") -> list[str]:
        return self.page.locator(f"{of} .card .name").all_inner_texts()

    def send(self) -> None:
        self.page.locator("#send").click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def download(self, button: Locator) -> tuple[str, bytes]:
        with self.page.expect_download() as download:
            button.click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def drop_paths(self, *paths: Path) -> None:
        """Drop files and folders of the disk, as the system does."""
        tab = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            tab.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 120, "data": data})

    def hand_over(self, event: str, name: str, data: bytes) -> None:
        """As a program does: "drop" from another window, or "paste" from the clipboard."""
        self.page.evaluate(
            """([name, bytes, event]) => {
                const data = new DataTransfer();
                data.items.add(new File([Uint8Array.from(atob(bytes), (char) => char.charCodeAt(0))], name));
                const what = event === "drop" ? { dataTransfer: data } : { clipboardData: data };
                const kind = event === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new kind(event, { bubbles: true, cancelable: true, ...what }));
            }""",
            [name, base64.b64encode(data).decode(), event],
        )


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Live]:
    config = Config(data_dir=tmp_path_factory.mktemp("page") / "data")
    config.weights_path.mkdir(parents=True)
    shutil.copy(empty_database, config.data_dir / "jobs.sqlite3")
    (config.weights_path / "realesr-animevideov3.pth").write_bytes(b"the API half only looks whether it is there")
    with serve(create_app(config)) as url, httpx.Client(base_url=url, timeout=20, **LOOPBACK) as client:
        yield Live(url, config, client)


@pytest.fixture
def live(shared: Live) -> Iterator[Live]:
    yield shared
    for job in shared.worker.jobs.list(limit=500)[0]:
        shared.worker.jobs.delete(job.id)


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
