"""Joins the results of tiles to bands of finished rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.backends.base import OnTile
from server.engine.tile import Span, blend_weights
from server.images.samples import from_floats, to_floats


def height_of(row: Span, scale: int) -> int:
    return (row.keep_stop - row.keep_start) * scale


def joined(
    results: Iterator[NDArray[Any]],
    columns: list[Span],
    scale: int,
    band: NDArray[Any],
    on_tile: OnTile,
) -> NDArray[Any]:
    """One row of tiles, side by side in `band`."""
    for column in columns:
        band[:, column.keep_start * scale : column.keep_stop * scale] = next(results)
        if on_tile is not None:
            on_tile()
    return band


def blended(
    results: Iterator[NDArray[Any]],
    rows: list[Span],
    columns: list[Span],
    scale: int,
    blend: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    on_tile: OnTile,
) -> Iterator[NDArray[Any]]:
    """Final rows from tiles, in floats or as in the result, whose borders are blended with those of their neighbours.
    Only the borders are kept in floats; the rest of a band is converted at once. `shape`: width and channels."""
    shared = 2 * blend * scale
    carry: NDArray[Any] | None = None  # the lowest rows of the last band, to which the next band adds
    for index, row in enumerate(rows):
        height, down = height_of(row, scale), blend_weights(rows, index, scale, blend)[:, None, None]
        top, bottom = (shared if index else 0), height - (shared if index < len(rows) - 1 else 0)
        band = np.empty((bottom, *shape), dtype)
        upper, lower = (np.zeros((count, *shape), np.float32) for count in (top, height - bottom))
        seam = np.empty(0, np.float32)  # the last columns of the previous tile
        for number, column in enumerate(columns):
            left, right = column.keep_start * scale, column.keep_stop * scale
            across = blend_weights(columns, number, scale, blend)[None, :, None]
            pixels = next(results)
            upper[:, left:right] += _floats(pixels[:top]) * across
            lower[:, left:right] += _floats(pixels[bottom:]) * across
            begin, end = (shared if number else 0), right - left - (shared if number < len(columns) - 1 else 0)
            middle, target = pixels[top:bottom], band[top:bottom, left:right]
            if number:
                seam += _floats(middle[:, :begin]) * across[:, :begin]
                target[:, :begin] = from_floats(seam, dtype)
            if middle.dtype == dtype:
                target[:, begin:end] = middle[:, begin:end]
            else:
                for part in range(0, bottom - top, shared):  # a few rows at a time, because they are copied
                    inner = middle[part : part + shared, begin:end].copy()
                    target[part : part + shared, begin:end] = from_floats(inner, dtype)
            seam = _floats(middle[:, end:]) * across[:, end:]
            del pixels, middle  # or the next tile would be in memory at the same time
            if on_tile is not None:
                on_tile()
        if carry is not None:
            upper *= down[:top]
            upper += carry
            band[:top] = from_floats(upper, dtype)
        lower *= down[bottom:]
        carry = lower
        yield band
        del band


def _floats(samples: NDArray[Any]) -> NDArray[Any]:
    return samples if samples.dtype == np.float32 else to_floats(samples)
