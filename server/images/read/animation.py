"""Animations as a viewer shows them: whole frames one after the other, each decoded on demand.

An APNG can have a default picture for viewers without APNG. It is not one of the frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyvips

from server.errors import SourceUnreadable
from server.images.metadata.timing import Timing
from server.images.read import apng, gif
from server.images.read.compositor import composite
from server.images.read.open import Samples, check_size
from server.images.read.sniff import sniff


@dataclass(frozen=True)
class Animation:
    timing: Timing
    frames: Iterator[Samples]
    """As many as there are delays, all of the same size and type; can be iterated once. Raises pyvips.Error and
    SourceUnreadable."""


def open_animation(data: bytes, first: pyvips.Image, max_pixels: int) -> Animation | None:
    """The frames of a GIF, WebP or APNG, as stored; None for a still picture or a single frame.

    `first`: the first frame, as open.py opened it. No frame larger than `max_pixels` is decoded. Raises
    SourceUnreadable, SourceTooLarge and pyvips.Error."""
    found = {"image/gif": _gif, "image/png": _apng, "image/webp": _webp}.get(sniff(data) or "")
    return found and found(data, first, max_pixels)


def _gif(data: bytes, first: pyvips.Image, max_pixels: int) -> Animation | None:
    if first.get("n-pages") < 2:
        return None
    size = first.width, first.height
    found = gif.read(data)
    _check_whole(found.whole)
    if len(found.frames) < 2:
        return None
    for frame in found.frames:  # they may be larger than the canvas
        check_size(frame.width, frame.height, max_pixels)
    return Animation(found.timing, composite(gif.patches(found.frames), size, alpha=found.has_alpha(size)))


def _apng(data: bytes, first: pyvips.Image, _: int) -> Animation | None:
    found = apng.read(data)
    if found is None:
        return None
    _check_whole(found.whole)
    if len(found.frames) < 2:
        return None
    patches = apng.patches(found, found.frames)
    return Animation(found.timing, composite(patches, (first.width, first.height), alpha=found.has_alpha))


def _webp(data: bytes, first: pyvips.Image, _: int) -> Animation | None:
    frames = first.get("n-pages") if first.get_typeof("n-pages") else 1
    if frames < 2:
        return None
    # All frames in one column, of which libvips decodes the requested rows.
    column = pyvips.Image.webpload_buffer(data, n=-1, access="sequential", fail_on="error")
    delays = tuple(Fraction(each, 1000) for each in column.get("delay"))
    return Animation(Timing(delays, column.get("loop")), _cut(column, (first.width, first.height), frames))


def _cut(column: pyvips.Image, size: tuple[int, int], frames: int) -> Iterator[Samples]:
    region = pyvips.Region.new(column)
    width, height = size
    for number in range(frames):
        rows = np.frombuffer(region.fetch(0, number * height, width, height), np.uint8)
        yield rows.reshape(height, width, column.bands)


def _check_whole(whole: bool) -> None:
    if not whole:
        raise SourceUnreadable("the picture file is damaged")
