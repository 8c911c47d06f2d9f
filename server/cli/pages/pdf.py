"""PDF: each page is rendered as a picture, upscaled, and becomes a JPEG that fills a page of the same size.

Needs pypdfium2 (the extra `pdf`). The result has pictures only: text, links and forms become part of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from server.cli.pages.base import Limits, UpscalePage
from server.errors import InvalidField, SourceTooLarge, SourceUnreadable, Unavailable
from server.files import scratch_file

if TYPE_CHECKING:
    import pypdfium2

NAME = "pdf"
ENDINGS: tuple[str, ...] = (".pdf",)

_POINTS_PER_INCH = 72
"""PDF 32000-1, 8.3.2.3."""
_DPI, _MOST_DPI = 150, 600
"""Dots per inch at which a page is rendered: that of its largest picture, at most 600; 150 where there is none that
fills half of the page, as on a page of text."""


def has_pages(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def convert(source: Path, target: Path, limits: Limits, upscale_page: UpscalePage) -> int:
    try:
        import pypdfium2
    except ImportError as error:
        raise Unavailable("PDF needs the package pypdfium2: pip install 'upscale-server[pdf]'") from error
    try:
        document = pypdfium2.PdfDocument(source)
    except pypdfium2.PdfiumError as error:
        raise SourceUnreadable(f"the PDF is damaged, or protected by a password: {error}") from error
    try:
        document.init_forms()
        if len(document) > limits.pages:
            raise SourceTooLarge(f"the PDF has {len(document)} pages; at most {limits.pages} are taken")
        with target.open("wb") as file, scratch_file(target.parent) as picture:
            writer = Writer(file)
            for number in range(1, len(document) + 1):
                page = _page(document, number)
                format_ = upscale_page(_rendered(page, number, limits), picture, number, len(document), own="jpeg")
                if format_ != "jpeg":
                    raise InvalidField("the pages of a PDF can only be jpeg", field="format")
                writer.add(picture, page.get_size())
                page.close()
            writer.finish()
        return len(document)
    finally:
        document.close()


def _page(document: "pypdfium2.PdfDocument", number: int) -> "pypdfium2.PdfPage":
    import pypdfium2

    try:
        return document[number - 1]
    except pypdfium2.PdfiumError as error:
        raise SourceUnreadable(f"page {number} of {len(document)}: it is damaged") from error


def _rendered(page: "pypdfium2.PdfPage", number: int, limits: Limits) -> bytes:
    """A PNG of the page, with its annotations and forms, on white."""
    import pyvips

    width, height = page.get_size()
    scale = _dpi(page, width * height) / _POINTS_PER_INCH
    w, h = round(width * scale) + 1, round(height * scale) + 1
    if w * h > limits.page_pixels:
        raise SourceTooLarge(f"page {number}: it has {w}×{h} pixels; at most {limits.page_pixels} are taken")
    bitmap = page.render(scale=scale, rev_byteorder=True)
    samples = bitmap.to_numpy()[:, :, :3].copy()
    bitmap.close()
    png: bytes = pyvips.Image.new_from_array(samples, interpretation="srgb").pngsave_buffer(compression=1)
    return png


def _dpi(page: "pypdfium2.PdfPage", area: float) -> float:
    """`area`: of the page, in square points."""
    import pypdfium2.raw

    found = 0.0
    for each in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = each.get_bounds()
        if (right - left) * (top - bottom) >= area / 2:
            found = max(found, each.get_px_size()[0] / (right - left) * _POINTS_PER_INCH)
    return min(found, _MOST_DPI) or _DPI


class Writer:
    """Writes a PDF whose pages are JPEG files, one after the other (PDF 32000-1, 7.5)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: list[int] = []
        """Where each object begins; the first is object 1: the catalog, then the list of pages."""
        self._pages: list[int] = []
        file.write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
        self._object(b"<< /Type /Catalog /Pages 2 0 R >>")
        self._places.append(0)  # the list of pages is written last

    def add(self, jpeg: Path, size: tuple[float, float]) -> None:
        """A page of `size` points, filled by that JPEG of grey or RGB."""
        import pyvips

        image: Any = pyvips.Image.new_from_file(str(jpeg))
        colours = b"DeviceGray" if image.bands == 1 else b"DeviceRGB"
        facts = b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /%b" % (
            image.width,
            image.height,
            colours,
        )
        picture = self._stream(facts + b" /BitsPerComponent 8 /Filter /DCTDecode", jpeg.read_bytes())
        w, h = (f"{each:.3f}".encode() for each in size)
        drawn = self._stream(b"", b"q %b 0 0 %b 0 0 cm /I Do Q" % (w, h))
        self._pages.append(
            self._object(
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %b %b] /Contents %d 0 R "
                b"/Resources << /XObject << /I %d 0 R >> >> >>" % (w, h, drawn, picture)
            )
        )

    def finish(self) -> None:
        self._places[1] = self._file.tell()
        kids = b" ".join(b"%d 0 R" % each for each in self._pages)
        self._file.write(b"2 0 obj\n<< /Type /Pages /Count %d /Kids [%b] >>\nendobj\n" % (len(self._pages), kids))
        start = self._file.tell()
        count = len(self._places) + 1
        self._file.write(b"xref\n0 %d\n0000000000 65535 f \n" % count)
        self._file.writelines(b"%010d 00000 n \n" % place for place in self._places)
        self._file.write(b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, start))

    def _stream(self, facts: bytes, data: bytes) -> int:
        return self._object(b"<< %b /Length %d >>\nstream\n%b\nendstream" % (facts, len(data), data))

    def _object(self, content: bytes) -> int:
        """Returns its number."""
        self._places.append(self._file.tell())
        self._file.write(b"%d 0 obj\n%b\nendobj\n" % (len(self._places), content))
        return len(self._places)
