"""TIFF of several pages: all pictures of its chain, without reduced versions and masks."""

import functools
import mmap
from pathlib import Path

from server.cli.pages.base import Limits, UpscalePage
from server.errors import SourceTooLarge, UpscaleError
from server.files import scratch_file

NAME = "tiff"
ENDINGS: tuple[str, ...] = (".tiff", ".tif")


def has_pages(path: Path) -> bool:
    try:
        found = path.stat()
        return _has_pages(path, found.st_size, found.st_mtime_ns)
    except (OSError, ValueError, UpscaleError):  # ValueError: an empty file
        return False


@functools.lru_cache(maxsize=1 << 16)
def _has_pages(path: Path, size: int, changed_ns: int) -> bool:
    """Remembered for each state of a file: `watch` asks again and again."""
    from server.images.read import tiff
    from server.images.read.sniff import sniff

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return sniff(data[:64]) == "image/tiff" and len(tiff.pages(data)) > 1


def convert(source: Path, target: Path, limits: Limits, upscale_page: UpscalePage) -> int:
    from server.images.read import tiff
    from server.images.write.tiff_pages import append_page

    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pages = tiff.pages(data)
        if len(data) > limits.total_bytes:
            raise SourceTooLarge(f"the file has {len(data)} bytes; at most {limits.total_bytes} are taken")
        if len(pages) > limits.pages:
            raise SourceTooLarge(f"the file has {len(pages)} pages; at most {limits.pages} are taken")
        with scratch_file(target.parent) as page:
            for number, each in enumerate(pages, 1):
                upscale_page(tiff.one_page(data, each), page, number, len(pages), own="tiff")
                append_page(page, target)
    return len(pages)
