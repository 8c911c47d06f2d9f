"""The pictures of the web page in README.md, made anew by a browser: `python -m docs.screenshots`.

A real server enlarges the demo's photo twice: on a screen of 1280 pixels in light colours, and on a phone of 390 pixels
in dark ones. Needs `make tools`, and Chromium on the path, like the page's tests.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo.__main__ import PHOTO, server

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUALITY = 88
JOB_MS = 300_000


def main() -> None:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit("there is no Chromium on the path")
    with server() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        screen = {"viewport": {"width": 1280, "height": 960}, "color_scheme": "light"}
        phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "device_scale_factor": 1.5}
        _shot(browser, address, "page.jpg", **screen)
        _shot(browser, address, "page_phone.jpg", **phone, has_touch=True, is_mobile=True)
        browser.close()


def _shot(browser: Browser, address: str, name: str, **options: object) -> None:
    context = browser.new_context(locale="en-US", **options)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    _upscale(page)
    with TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        page.screenshot(path=shot)
        Image.open(shot).convert("RGB").save(FOLDER / name, quality=QUALITY, optimize=True)
    context.close()


def _upscale(page: Page) -> None:
    page.set_input_files("#files", {"name": "indri.jpg", "mimeType": "image/jpeg", "buffer": PHOTO.read_bytes()})
    card = page.locator("#pictures .card").first
    expect(card).to_contain_text("Ready", timeout=JOB_MS)
    page.get_by_role("button", name="Upscale").click()
    expect(card).to_contain_text("Done", timeout=JOB_MS)
    expect(page.locator("#compare")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
