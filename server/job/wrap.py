"""How wide a border a wrapped picture gets, so that its opposite sides fit together when it is enlarged.

The source is surrounded by what is at its other side. The border is wide enough for all that the later steps look at:
networks, the resampling between them, the diffusion pass. Each of these keeps as much of it as those after it need.
What is left at the result is cut off; its last `JOIN` pixels are blended into what precedes its first one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.job.job import Wrap
from server.job.tiling import Size

JOIN = 32
"""Pixels of the result, at its right or lower side."""
_REFINED = 64
"""Pixels of the result that the diffusion pass needs beyond them."""
_LOBES = 3
"""Of the filter that resamples, in pixels of the coarser picture."""
NO_BORDER: Size = (0, 0)


@dataclass(frozen=True)
class Stage:
    """What a picture goes through: one network, or several that run over the same pixels."""

    source: Size
    """What comes in, without its border."""
    scale: int = 1
    halo: int = 0
    """Pixels of `source` that the networks need around what they make."""


def borders(wrap: Wrap, stages: Sequence[Stage], result: Size, *, networks: bool, diffuses: bool) -> list[Size]:
    """Of the source of each stage, then of the result: pixels left and right, and above and below. `networks`: any
    run; without them nothing has to be joined."""
    last = (JOIN + _REFINED if diffuses else JOIN) if networks else 0
    x, y = (
        _along([(each.source[side], each.scale, each.halo) for each in stages], result[side], last)
        if name in wrap
        else [0] * (len(stages) + 1)
        for side, name in enumerate("xy")
    )
    return list(zip(x, y, strict=True))


def _along(stages: Sequence[tuple[int, int, int]], result: int, last: int) -> list[int]:
    """The same along one side: `stages` of length, scale and halo."""
    found, after = [min(last, result)], result
    for length, scale, halo in reversed(stages):
        found.insert(0, math.ceil(found[0] * length / after) + _reach(length, after, scale) + halo)
        after = length
    return found


def _reach(length: int, after: int, scale: int) -> int:
    """How far the resampling of what a network has made, to `after` pixels, looks beyond a pixel, in pixels of its
    source. At most half a picture, which only matters where the result has less than six pixels."""
    if length * scale == after:
        return 0
    return min(math.ceil(_LOBES * max(1 / scale, length / after)) + 1, max(length // 2, 4))


def grown(size: Size, border: Size) -> Size:
    return size[0] + 2 * border[0], size[1] + 2 * border[1]
