"""The kind of a picture file, by its first bytes. Its name does not count."""

from server.images.chunks import PNG_SIGNATURE
from server.images.read import heif

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (PNG_SIGNATURE, "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF, like the next
    (b"MM\0+", "image/tiff"),
)
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
"""Sizes of the second header of a Windows or OS/2 bitmap. Its first two letters alone are too common in texts."""

READABLE = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC"


SNIFFED_BYTES = 64 << 10
"""With so many bytes of a file's start `sniff` gives the same answer as with all of it."""


def sniff(data: bytes) -> str | None:
    """The MIME type by the file's start, or None. File names and Content-Type headers are never used."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if heif.is_bmff(data):
        return heif.sniff(data)
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if data[8:10] == b"CR" and data[:2] == b"II":  # Canon CR2
        return None
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), None)
