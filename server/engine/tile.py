"""Where to cut a picture into tiles, and how to weigh the tiles when they are joined.

All tiles along a side have the same length, so that they can share batches and compiled shapes. They are spread evenly;
the first starts and the last ends at the border of the picture. There the network pads with zeros, as it would without
tiles. Two neighbours overlap by at least twice the halo, and the seam is in the middle of the overlap. So with a halo
of the receptive radius the result is exactly that without tiles.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.images.samples import Floats
from server.job.tiling import tiles_along


@dataclass(frozen=True)
class Span:
    """One tile along one side, in source pixels: the network sees [start, stop), the result keeps [keep_start,
    keep_stop) of it. Where neighbours are blended, their kept parts overlap by twice `blend` pixels."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def cut(length: int, tile: int, halo: int, blend: int = 0, multiple: int = 1) -> list[Span]:
    """Cover `length` pixels with tiles of `tile`: more than twice the halo, if there is more than one.

    `blend`: half width of the zone in which neighbours are mixed; at most `halo`. `multiple`: tiles start and end at
    multiples of it (networks that unshuffle pixels want 2 or 4); `length` and `tile` must be multiples too.
    """
    assert blend <= halo and length % multiple == tile % multiple == 0
    if length <= tile:
        return [Span(0, length, 0, length)]
    # In a narrower tile the ramps of its two sides could overlap.
    assert tile >= 2 * halo + 4 * blend + 2 * multiple
    count = tiles_along(length, tile, halo)
    starts = [(length - tile) * i // (count - 1) // multiple * multiple for i in range(count)]
    starts[-1] = length - tile
    seams = [(starts[i] + tile + starts[i + 1]) // 2 for i in range(count - 1)]
    return [
        Span(
            start,
            start + tile,
            seams[i - 1] - blend if i else 0,
            seams[i] + blend if i < count - 1 else length,
        )
        for i, start in enumerate(starts)
    ]


def blend_weights(spans: list[Span], index: int, scale: int, blend: int) -> Floats:
    """The weight of each result pixel of a tile's kept part, along one side. The weights of neighbours add up to one.

    The ramps are raised cosines over the 2·blend·scale pixels that two kept parts share.
    """
    span = spans[index]
    weight = np.ones((span.keep_stop - span.keep_start) * scale, np.float32)
    ramp_length = 2 * blend * scale
    if ramp_length:
        ramp = raised_cosine((np.arange(ramp_length) + 0.5) / ramp_length)
        if index > 0:
            weight[:ramp_length] *= ramp
        if index < len(spans) - 1:
            weight[-ramp_length:] *= ramp[::-1]
    return weight


def raised_cosine(place: NDArray[np.float64]) -> Floats:
    """From 0 to 1 while `place` goes from 0 to 1."""
    return (0.5 - 0.5 * np.cos(np.pi * place)).astype(np.float32)


def blended(bands: Iterable[Floats], spans: list[Span], scale: int, blend: int) -> Iterator[Floats]:
    """The kept parts of tiles, from top to bottom, each rows × …, → final rows, without repetition. With `blend` 0 they
    are final already. `bands` are changed in place; the rows that a later band adds to are held until then."""
    carry: Floats | None = None
    shared, parts = 2 * blend * scale, iter(bands)
    for index in range(len(spans)):
        band = next(parts)  # not in a `for`: it would hold the last band while the next is made
        if shared:
            band *= blend_weights(spans, index, scale, blend).reshape(-1, *[1] * (band.ndim - 1))
            if carry is not None:
                band[:shared] += carry
            if index < len(spans) - 1:
                band, carry = band[:-shared], band[-shared:].copy()
        yield band
        del band
