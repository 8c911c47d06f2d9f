"""The picture formats we write, and what each can hold."""

from dataclasses import dataclass
from typing import Literal

FormatName = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True)
class Format:
    name: FormatName
    mime: str
    suffix: str
    """File name ending, with its dot; the vendors write `.jpeg`, and so do we."""
    max_side: int
    """Longest side in pixels that the file format can state."""
    alpha: bool
    deep: bool
    """Can hold 16 bits per sample."""
    default_quality: int | None
    """1…100, or None where quality means nothing."""


FORMATS: dict[str, Format] = {
    "jpeg": Format("jpeg", "image/jpeg", ".jpeg", max_side=65_500, alpha=False, deep=False, default_quality=95),
    "png": Format("png", "image/png", ".png", max_side=1_000_000, alpha=True, deep=True, default_quality=None),
    "webp": Format("webp", "image/webp", ".webp", max_side=16_383, alpha=True, deep=False, default_quality=90),
}
"""JPEG's limit is libjpeg's (65,500), PNG's is libpng's default user limit, WebP's is 14 bits (RFC 9649)."""

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic"}


def sniff(data: bytes) -> str | None:
    """The MIME type that the first bytes tell, or None. Names and Content-Type headers are never believed."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12])
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), None)
