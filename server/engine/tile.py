"""Where to cut a picture, and how the pieces weigh when they are joined.

All tiles along a side have the same length, so that they can share batches and compiled shapes: they are spread evenly
and the last one ends at the border. Two neighbours overlap by at least twice the halo, and the seam lies in the middle
of the overlap. A tile at the border of the picture starts exactly there: the network's own zero padding then happens
where it would without tiles, which is what makes a halo of the receptive radius exact.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

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
    # Narrower, and the ramps of a tile's two sides could meet.
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
    """How much each result pixel of a tile's kept part counts, along one side. Neighbours' weights add up to one.

    The ramps are raised cosines over the 2·blend·scale pixels that two kept parts share.
    """
    span = spans[index]
    weight = np.ones((span.keep_stop - span.keep_start) * scale, np.float32)
    ramp_length = 2 * blend * scale
    if ramp_length:
        ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp_length) + 0.5) / ramp_length)).astype(np.float32)
        if index > 0:
            weight[:ramp_length] *= ramp
        if index < len(spans) - 1:
            weight[-ramp_length:] *= ramp[::-1]
    return weight


def blended(bands: Iterable[Floats], spans: list[Span], scale: int, blend: int) -> Iterator[Floats]:
    """The kept parts of tiles, from top to bottom and each rows × …, → rows that are final, each once; without mixing
    (`blend` 0) they are final already. `bands` are changed, and one that a later one adds to is held until then."""
    carry: Floats | None = None
    shared, parts = 2 * blend * scale, iter(bands)
    for index in range(len(spans)):
        band = next(parts)  # no loop over them: `enumerate` and `zip` hold the last one while the next is made
        if shared:
            band *= blend_weights(spans, index, scale, blend).reshape(-1, *[1] * (band.ndim - 1))
            if carry is not None:
                band[:shared] += carry
            if index < len(spans) - 1:
                band, carry = band[:-shared], band[-shared:].copy()
        yield band
        del band
