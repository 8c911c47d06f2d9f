"""What each kind of file with pages offers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from server.job.formats import FormatName


@dataclass(frozen=True)
class Limits:
    page_bytes: int
    """Of one page's picture as it is stored."""
    page_pixels: int
    pages: int = 5000
    total_bytes: int = 8 << 30
    """Of all pages together, unpacked."""


class UpscalePage(Protocol):
    def __call__(self, data: bytes, target: Path, number: int, total: int, own: FormatName | None = None) -> FormatName:
        """Upscale one picture into the file `target`. `number`: from 1; `own`: the format to use unless the caller has
        asked for one. Returns the format that was used. Raises UpscaleError, whose message names the page."""
        ...


class Kind(Protocol):
    NAME: str
    ENDINGS: tuple[str, ...]
    """File name endings in lower case. The first is that of results."""

    def has_pages(self, path: Path) -> bool:
        """Whether the file is taken page by page. Does not raise."""
        ...

    def convert(self, source: Path, target: Path, limits: Limits, upscale_page: UpscalePage) -> int:
        """Write the file `target`, of the same kind, from all pages of `source`. Returns their number. Raises
        UpscaleError and OSError."""
        ...
