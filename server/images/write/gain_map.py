"""Write an Ultra HDR JPEG: a picture and, behind it, its gain map (ISO 21496-1; CIPA DC-007 for the table that says
where it is; Google's "Ultra HDR image format" 1.1 for the same in XMP).

libvips' `uhdrsave` can do this for pictures of up to 8192 pixels a side that are in memory as a whole, and writes new
metadata. Here rows are written as they come, and the gain map's metadata stay as they are in the source.
"""

import io
import struct
from typing import BinaryIO

import pyvips

from server.images.read import jpeg
from server.images.read.gain_map import GainMap

_QUALITY = 95
"""Of gain maps: errors of their pixels are multiplied by the range of the picture."""
_PRIMARY = 0x030000
"""The attribute "Baseline MP Primary Image" (CIPA DC-007, section 5.2.3.3.1)."""


def encoded(image: pyvips.Image, source: GainMap) -> bytes:
    """The result's gain map, with the metadata of the source's. Raises pyvips.Error."""
    file = io.BytesIO()
    jpeg.write(
        lambda target: image.jpegsave_target(target, Q=_QUALITY, subsample_mode="off", keep="none"),
        file,
        source.metadata,
        (),
    )
    return file.getvalue()


TABLE = jpeg.segment(0xE2, bytes(86))
"""The place for the table, in the picture's segments, before its size is known."""


def append(file: BinaryIO, end: int, gain_map: bytes) -> None:
    """Complete a file that has only the picture; `end`: offset behind the segment TABLE. Raises OSError."""
    size = file.seek(0, io.SEEK_END)
    file.write(gain_map)
    start = end - len(TABLE)
    file.seek(start)
    # Offsets count from the byte behind the segment's name.
    file.write(jpeg.segment(0xE2, b"MPF\0" + _table(size, len(gain_map), size - (start + 8))))


def _table(picture: int, gain_map: int, offset: int) -> bytes:
    """An IFD as in TIFF, with its version, the number of pictures, and the table of their sizes and offsets."""
    tags = ((0xB000, 7, 4, b"0100"), (0xB001, 4, 1, struct.pack(">I", 2)), (0xB002, 7, 32, struct.pack(">I", 50)))
    ifd = b"".join(struct.pack(">HHI", *head) + value for *head, value in tags)
    entries = struct.pack(">III4x", _PRIMARY, picture, 0) + struct.pack(">III4x", 0, gain_map, offset)
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + ifd + struct.pack(">I", 0) + entries
