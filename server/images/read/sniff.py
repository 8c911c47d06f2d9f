"""How the kinds of picture files that are read are told apart: by their first bytes, whatever their names say."""

from server.images.read import heif

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF, like the next
    (b"MM\0+", "image/tiff"),
)
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
"""Sizes of a Windows or OS/2 bitmap's second header. The two letters before it are too common in texts."""

READABLE = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC"


SNIFFED_BYTES = 64 << 10
"""Of a file's start, of which `sniff` can tell as much as of the whole."""


def sniff(data: bytes) -> str | None:
    """The MIME type that the file's start tells, or None. Names and Content-Type headers are never believed."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if heif.is_bmff(data):
        return heif.sniff(data)
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if data[8:10] == b"CR" and data[:2] == b"II":  # Canon CR2
        return None
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), None)
