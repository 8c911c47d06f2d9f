"""The pictures of the web page in README.md, made anew by a browser: `python -m docs.screenshots`.

A real server enlarges the demo's photo twice: on a screen of 1280 pixels in light colours, and on a phone of 390 pixels
in dark ones. With a folder, `python -m docs.screenshots FOLDER`, it writes instead what one looks at after a change to
the page: both widths in both colours, each empty, with pictures in every state, with the dialog in which creativities
are tried, and after a reload.

Needs `make tools`, and Chromium on the path, like the page's tests.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from demo.__main__ import PHOTO, server

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUALITY = 88
JOB_MS = 300_000
SCREEN = {"viewport": {"width": 1280, "height": 960}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "has_touch": True, "is_mobile": True}


def main(folder: Path | None = None) -> None:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit("there is no Chromium on the path")
    with server() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        if folder is None:
            for name, options in (
                ("page.jpg", SCREEN | {"color_scheme": "light"}),
                ("page_phone.jpg", PHONE | {"color_scheme": "dark"}),
            ):
                with _opened(browser, address, options) as page:
                    _upscale(page)
                    _shot(page, FOLDER / name)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            for name, options in (("screen", SCREEN), ("phone", PHONE)):
                for scheme in ("light", "dark"):
                    with _opened(browser, address, options | {"color_scheme": scheme}) as page:
                        _states(page, folder, f"{name}-{scheme}")
        browser.close()


@contextmanager
def _opened(browser: Browser, address: str, options: dict[str, object]) -> Iterator[Page]:
    context = browser.new_context(locale="en-US", **options)  # type: ignore[arg-type]
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(address)
    yield page
    context.close()


def _shot(page: Page, path: Path, *, whole: bool = False) -> None:
    page.wait_for_timeout(500)
    with TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        page.screenshot(path=shot, full_page=whole)
        Image.open(shot).convert("RGB").save(path, quality=QUALITY, optimize=True)


def _give(page: Page, name: str, data: bytes) -> Locator:
    page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": data})
    card = page.locator("#pictures .card").filter(has=page.get_by_text(name, exact=True))
    expect(card).not_to_contain_text("Checking", timeout=JOB_MS)
    return card


def _upscale(page: Page) -> None:
    card = _give(page, "indri.jpg", PHOTO.read_bytes())
    expect(card).to_contain_text("Ready", timeout=JOB_MS)
    page.locator("#send").click()
    expect(card).to_contain_text("Done", timeout=JOB_MS)
    expect(page.locator("#compare")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.evaluate("window.scrollTo(0, 0)")


def _states(page: Page, folder: Path, name: str) -> None:
    _shot(page, folder / f"{name}-1-empty.jpg")
    _upscale(page)
    card = _give(page, "a photo with a long name, from a journey in the rain forest.jpg", PHOTO.read_bytes())
    _give(page, "logo.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    _shot(page, folder / f"{name}-2-ready.jpg", whole=True)
    card.get_by_role("button", name="Try creativities").click()
    page.get_by_role("dialog").locator("img").first.evaluate("image => image.decode()")
    _shot(page, folder / f"{name}-3-part.jpg")
    page.get_by_role("button", name="Make the versions").click()
    expect(page.locator(".panel")).to_have_count(6, timeout=JOB_MS)
    _shot(page, folder / f"{name}-4-versions.jpg")
    page.keyboard.press("Escape")
    page.get_by_label("4k").check()
    expect(page.locator("#summary")).to_contain_text("4,096", timeout=JOB_MS)
    page.locator("#send").click()
    expect(card).to_contain_text("left", timeout=JOB_MS)
    for summary in page.locator(".options summary").all():
        summary.click()
    _shot(page, folder / f"{name}-5-running.jpg", whole=True)
    card.get_by_role("button", name="Cancel").click()
    expect(card).to_contain_text("Cancelled", timeout=JOB_MS)
    page.reload()
    expect(page.locator("#pictures .card")).to_have_count(2, timeout=JOB_MS)
    page.wait_for_timeout(1500)  # the small pictures
    _shot(page, folder / f"{name}-6-reloaded.jpg", whole=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
