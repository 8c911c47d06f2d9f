"""Files of several pages, whose result is a file of the same kind: each page is upscaled as a picture of its own.

`KINDS` has all kinds. A file's kind follows from its name; only of a TIFF the pages are counted.
"""

from pathlib import Path

from server.cli.pages import cbz, pdf, tiff
from server.cli.pages.base import Kind, Limits, UpscalePage

KINDS: tuple[Kind, ...] = (cbz, tiff, pdf)

ENDINGS = frozenset(ending for kind in KINDS for ending in kind.ENDINGS)
"""File name endings, in lower case, of files that may have pages."""

__all__ = ["ENDINGS", "KINDS", "Kind", "Limits", "UpscalePage", "kind_of"]


def kind_of(path: Path) -> Kind | None:
    """The kind of a file with pages; None for any other file, also one that can't be read."""
    kind = next((each for each in KINDS if path.suffix.lower() in each.ENDINGS), None)
    return kind if kind is not None and kind.has_pages(path) else None
