"""Opening picture files safely, and reading their headers. Shared by both halves; needs neither torch nor FastAPI.

libvips reads lazily: opening costs the header only, so a file that claims 100,000 × 100,000 pixels is refused before
anything is allocated. Loaders that libvips marks as untrusted (ImageMagick, PDF, SVG, …) are blocked.
"""

from dataclasses import dataclass

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.errors import SourceTooLarge, SourceUnreadable
from server.formats import sniff

pyvips.block_untrusted_set(True)
# Every source is another picture: a cache of decoded ones would only hold memory.
pyvips.cache_set_max(0)


Samples = NDArray[np.uint8] | NDArray[np.uint16]
"""H × W × channels (grey, grey + alpha, RGB, RGB + alpha), 0 … 255 or 0 … 65535: the type tells, never the values."""


@dataclass(frozen=True)
class Header:
    width: int
    """Pixels, after the EXIF orientation has been applied; likewise height."""
    height: int
    mime: str

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def open_picture(data: bytes) -> pyvips.Image:
    """The picture as libvips sees it, orientation not yet applied. Raises SourceUnreadable."""
    if sniff(data) is None:
        raise SourceUnreadable("the file is not a picture of a kind this server reads")
    try:
        # NOTE: without fail_on, a truncated file decodes into a picture that is grey at the bottom.
        return pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
    except pyvips.Error as error:
        raise SourceUnreadable("the picture file is damaged or of a variant this server can't read") from error


def read_header(data: bytes, max_pixels: int) -> Header:
    """Size and kind, without decoding. Raises SourceUnreadable, or SourceTooLarge beyond `max_pixels`."""
    image = open_picture(data)
    width, height = image.width, image.height
    if width * height > max_pixels:
        raise SourceTooLarge(f"the picture has {width}×{height} pixels; this server takes at most {max_pixels}")
    if image.bands > (5 if image.interpretation == "cmyk" else 4):
        raise SourceUnreadable(f"the picture has {image.bands} channels; this server reads up to RGB with alpha")
    if image.get_typeof("orientation") and image.get("orientation") >= 5:
        width, height = height, width
    mime = sniff(data)
    assert mime is not None  # open_picture has looked
    return Header(width, height, mime)
