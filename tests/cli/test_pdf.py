"""PDF on the command line: each page rendered, upscaled, and put on a page of the same size."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from server.cli.pages import pdf
from server.cli.pages.base import Limits
from server.errors import SourceTooLarge
from tests.cli.outcome import Run, complaint, lines

pypdfium2 = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed (the extra pdf)")


def scan(size: tuple[int, int], colour: str) -> Image.Image:
    """A page with a bar at its top, so that up is up."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((0, 0, size[0], size[1] // 3), fill=colour)
    return image


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans at 100 dots per inch."""
    first, second = scan((100, 50), "red"), scan((60, 90), "blue")
    first.save(tmp_path / "scans.pdf", save_all=True, append_images=[second], resolution=100, quality=95)
    return tmp_path / "scans.pdf"


def pages(path: Path) -> list[tuple[tuple[float, float], tuple[int, int], Any]]:
    """Of each page its size in points, the pixels of its picture, and the page as rendered."""
    document = pypdfium2.PdfDocument(path)
    found = []
    for page in document:
        (image,) = page.get_objects()
        found.append(
            (page.get_size(), image.get_px_size(), page.render(rev_byteorder=True).to_numpy()[:, :, :3].copy())
        )
    document.close()
    return found


def test_a_scan_is_enlarged_from_its_own_pixels_and_pages_keep_their_sizes(run: Run, scans: Path) -> None:
    outcome = run("upscale", scans, "-o", "big.pdf", "-s", 2)
    assert (outcome.exit_code, outcome.stderr) == (0, ""), outcome.output
    assert outcome.stdout.startswith("big.pdf  2 pages  ")
    for (size, pixels, shown), (old_size, old_pixels, old_shown) in zip(
        pages(Path("big.pdf")), pages(scans), strict=True
    ):
        assert size == pytest.approx(old_size, abs=0.01)
        assert np.abs(np.subtract(pixels, np.multiply(2, old_pixels))).max() <= 2
        assert np.abs(shown.astype(int) - old_shown).mean() < 6, "the same page, the same way up"


def test_a_folder_has_pdf_too(run: Run, scans: Path, tmp_path: Path) -> None:
    (line,) = lines(run("upscale", tmp_path, "-o", "out", "-s", 1, "-f", "jpg", "--json"))
    assert (line["result"], line["pages"]) == ("out/scans.pdf", 2)


def test_pages_are_jpeg(run: Run, scans: Path) -> None:
    words = complaint(run("upscale", scans, "-o", "out/", "-s", 1, "-f", "webp"))
    assert words == f"{scans}: the pages of a PDF can only be jpeg"


def test_what_is_no_pdf_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.pdf").write_text("no PDF")
    words = complaint(run("upscale", "text.pdf", "-o", "out.pdf", "-s", 1))
    assert words.startswith("text.pdf: the PDF is damaged, or protected by a password")
    assert not Path("out.pdf").exists()


def test_without_the_package_it_is_named(run: Run, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    words = complaint(run("upscale", scans, "-o", "out.pdf", "-s", 1))
    assert words.endswith("PDF needs the package pypdfium2: pip install 'upscale-server[pdf]'")


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("no page is upscaled")


@pytest.mark.parametrize(("limits", "words"), [({"pages": 1}, "has 2 pages"), ({"page_pixels": 1000}, "at most 1000")])
def test_the_limits(tmp_path: Path, scans: Path, limits: dict[str, int], words: str) -> None:
    with pytest.raises(SourceTooLarge, match=words):
        pdf.convert(scans, tmp_path / "o.pdf", Limits(**{"page_bytes": 10**6, "page_pixels": 10**6, **limits}), never)
