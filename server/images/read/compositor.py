"""The picture that the frames of GIF and APNG are painted on, each on what the last has left."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Disposal = Literal["keep", "clear", "restore"]


@dataclass(frozen=True)
class Patch:
    """What one frame paints."""

    left: int
    """Pixels from the canvas's left side; likewise `top`. A part that lies outside of it is not seen."""
    top: int
    samples: NDArray[Any]
    """H × W × 2 or 4, of 8 or 16 bits: alpha last."""
    over: bool
    """What is below shows through where it is transparent; else it replaces that."""
    disposal: Disposal
    """What becomes of its place before the next frame: it is kept, made transparent, or as it was before this one."""


def painted(patches: Iterable[Patch], size: tuple[int, int], *, alpha: bool) -> Iterator[NDArray[Any]]:
    """The whole picture after each patch: H × W × channels, `size` = (width, height). They are made as they are asked
    for, and only one is held. Without `alpha` the last channel is left out: nothing must be transparent then.

    A cleared place is transparent, as in browsers, whatever background colour a GIF names.
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
    """Porter and Duff's (1984); colours are not premultiplied."""
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
