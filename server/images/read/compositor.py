"""Composes the frames of GIF and APNG: each is drawn on the canvas that the frames before it have left."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Disposal = Literal["keep", "clear", "restore"]


@dataclass(frozen=True)
class Patch:
    """The part of the canvas that one frame draws."""

    left: int
    """Pixels from the left side of the canvas; `top`: from its top. Parts outside of the canvas are not shown."""
    top: int
    samples: NDArray[Any]
    """H × W × 2 or 4, of 8 or 16 bits: alpha last."""
    over: bool
    """True: blended over the canvas. False: replaces the canvas, alpha included."""
    disposal: Disposal
    """Before the next frame its box is kept, made transparent, or restored to what it was before this frame."""


def composite(patches: Iterable[Patch], size: tuple[int, int], *, alpha: bool) -> Iterator[NDArray[Any]]:
    """The whole canvas after each patch: H × W × channels, `size`: (width, height). The frames are made on demand, and
    only one is held. Without `alpha` the last channel is left out; then no pixel may be transparent.

    A cleared box is transparent, as in browsers, whatever background colour a GIF has.
    """
    canvas: NDArray[Any] | None = None
    for patch in patches:
        if canvas is None:
            canvas = np.zeros((size[1], size[0], patch.samples.shape[2]), patch.samples.dtype)
        place = canvas[patch.top : patch.top + len(patch.samples), patch.left : patch.left + patch.samples.shape[1]]
        before = place.copy() if patch.disposal == "restore" else None
        new = patch.samples[: place.shape[0], : place.shape[1]]
        place[:] = _over(new, place) if patch.over else new
        yield canvas.copy() if alpha else np.ascontiguousarray(canvas[..., :-1])
        if before is not None:
            place[:] = before
        elif patch.disposal == "clear":
            place[:] = 0


def _over(new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """The operator "over" of Porter and Duff (1984); colours are not premultiplied."""
    top = np.iinfo(new.dtype).max
    visible = new[..., -1:]
    result = np.where(visible > 0, new, old)
    mixed = ((visible > 0) & (visible < top) & (old[..., -1:] > 0))[..., 0]
    if mixed.any():
        above, below = new[mixed].astype(np.float64), old[mixed].astype(np.float64)
        share = above[:, -1:] / top
        rest = below[:, -1:] / top * (1 - share)
        alpha = share + rest
        colours = (above[:, :-1] * share + below[:, :-1] * rest) / alpha
        result[mixed] = np.rint(np.concatenate((colours, alpha * top), axis=1)).astype(new.dtype)
    return result
