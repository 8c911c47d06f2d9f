"""A small WebP of a picture, to show what it is. Run as a process of its own, with limits on time and memory, because
it decodes files of callers: a file that kills it costs one preview.

    python -m server.images.preview SIDE MAX_PIXELS < picture > preview.webp

Exit code 1: the picture is refused, and stderr has `{"code", "message"}` of the error.
"""

import json
import resource
import sys

import pyvips

from server.errors import BadSource
from server.images.metadata import colour, metadata
from server.images.read.open import open_picture, why

MEMORY_BYTES = 4 << 30
"""Address space. The largest picture that a decoder must hold whole, a WebP of 16,383² pixels, takes 1 GiB."""
CPU_S = 30
_QUALITY = 80


def preview(data: bytes, side: int, max_pixels: int) -> bytes:
    """The picture as WebP in sRGB and upright, reduced so that no side is longer than `side`; never enlarged. Of an
    animation the first frame. Raises SourceUnreadable and SourceTooLarge."""
    try:
        image = open_picture(data, max_pixels)
        orientation = metadata.read_orientation(image)
        image = colour.to_rgb(image)
        reduced = _reduced(image, min(1.0, side / max(image.width, image.height)))
        small = colour.to_srgb(reduced.copy_memory())
        small.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        encoded: bytes = small.autorot().colourspace("srgb").webpsave_buffer(Q=_QUALITY, effort=2, keep="none")
    except pyvips.Error as error:
        raise why(error) from error
    return encoded


def _reduced(image: pyvips.Image, ratio: float) -> pyvips.Image:
    if ratio == 1:
        return image
    # A long thin picture keeps at least one pixel of its short side.
    scales = {"scale": max(ratio, 1 / image.width), "vscale": max(ratio, 1 / image.height)}
    if not image.hasalpha():
        return image.resize(scales.pop("scale"), **scales)
    form = image.format
    return image.premultiply().resize(scales.pop("scale"), **scales).unpremultiply().cast(form)


def main(side: int, max_pixels: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    try:
        sys.stdout.buffer.write(preview(sys.stdin.buffer.read(), side, max_pixels))
    except BadSource as error:
        sys.stderr.write(json.dumps({"code": error.code, "message": error.message}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
