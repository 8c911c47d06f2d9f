"""Measures what a result has that its source has not: the figures and the heat map of a certificate.

Both pictures are compared on a grid that has, in each direction, as many cells as the smaller of them has pixels: when
a picture is enlarged, a cell is a pixel of the source. All is computed in bands of the result's rows, so that memory
does not grow with it. docs/certificate.md has the formulas.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples
from server.images.samples import Floats, full_scale
from server.rows.stream import Stream

BLOCK = 8
"""Side in cells of the squares whose mean colours are compared."""
HEAT_SIDE = 1024
"""Of the heat map, at most."""
HEAT_GAIN = 4
"""Levels of the heat map for one level of difference: 64 levels are white."""
_STEPS = 32
"""The percentile is a multiple of 1/32 level."""
_BAND_SAMPLES = 1 << 19
_LEAST_STEP = 0.02
"""Levels. Smaller steps beside the joints count as this, so that flat pictures have no large scores."""
_LEAST_VARIANCE = 0.01
"""Levels². In a flatter result no share is computed."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the upright source."""
Rows = Callable[[int, int], Floats]
"""`rows(start, stop)`: rows of the reduced source, in levels."""
_Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """What the two files do not say."""

    columns: tuple[int, ...] = ()
    """Where tiles were joined: the pixels of the result on the right of each joint."""
    rows: tuple[int, ...] = ()
    """Likewise, below each joint."""
    faces: tuple[Box, ...] = ()
    """The faces that were restored."""


@dataclass(frozen=True)
class Certificate:
    facts: dict[str, Any]
    """As JSON has it."""
    heat_map: bytes = field(repr=False)
    """A PNG, grey, 8 bits."""


def measure(
    source: Samples, result: Stream, known: Known, check: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The figures, as JSON has them, and the heat map.

    `source`: upright, in the colours of `result`, without alpha where that has none. `check` is called for each band,
    and may raise. A source whose alpha is opaque everywhere is to be given without it.
    """
    measuring = _Measuring(source, result, known)
    for band in _pieces(result):
        check()
        measuring.take(band)
    return measuring.figures(), measuring.heat()


class _Measuring:
    def __init__(self, source: Samples, result: Stream, known: Known) -> None:
        self._channels = source.shape[2]
        self._size = result.width, result.height
        self._grid = w, h = min(source.shape[1], result.width), min(source.shape[0], result.height)
        self._reference = _reduced(source, (w, h))
        few = source[:: max(1, h // 64), :: max(1, w // 64)]
        self._offset = levels(few, self._channels).mean(axis=(0, 1))
        """About the mean: what is far from 0 is squared less exactly."""
        self._cells = _Cells((w, h), self._size)
        self._top = 0
        self._histogram = np.zeros(255 * _STEPS + 1, np.int64)
        self._difference = _Blocks(BLOCK, (w, h), self._channels)
        self._heat = _Blocks(math.ceil(max(w, h) / HEAT_SIDE), (w, h), 1)
        self._fine = self._squares = self._max = self._absolute = 0.0
        self._sums = np.zeros(self._channels)
        scale = w / source.shape[1], h / source.shape[0]
        self._faces = [_Face(box, scale, (w, h)) for box in known.faces]
        self._across = _Steps(known.columns, result.width, w)
        self._down = _Steps(known.rows, result.height, h)
        self._last: Floats | None = None
        """The last row of the added detail."""

    def take(self, samples: Samples) -> None:
        values = levels(samples, self._channels) - self._offset
        rows = range(self._top, self._top + len(values))
        detail = values - self._enlarged(rows)
        squares = np.einsum("yxc,yxc->yx", detail, detail)[..., None]
        self._squares += float(np.vdot(values, values))
        for row, cells in self._cells.take(rows, (values, detail, squares)):
            self._compare(row, cells)
        self._across.add(np.arange(self._size[0]), detail.swapaxes(0, 1))
        before = detail[:1] if self._last is None else self._last
        self._down.add(np.arange(rows.start - 1, rows.stop), np.concatenate((before, detail)))
        self._last, self._top = detail[-1:], rows.stop

    def _enlarged(self, rows: range) -> Floats:
        """These rows of the reduced source, interpolated linearly to the result's size."""
        (w, h), width = self._grid, self._size[0]
        first, down = _interpolation(h, self._size[1], rows)
        left, across = _interpolation(w, width, range(width), dense=False)
        part = self._reference(first, first + down.shape[1]) - self._offset
        right = np.minimum(left + 1, w - 1)
        wide = part[:, left] * (1 - across) + part[:, right] * across
        return np.asarray(np.tensordot(down, wide, 1), np.float32)

    def _compare(self, first: int, cells: Floats) -> None:
        """Finished rows of the grid. `cells`: the means of the result, of the detail and of its squares."""
        c = self._channels
        ours = cells[..., :c] + self._offset
        self._sums += cells[..., :c].sum(axis=(0, 1), dtype=np.float64)
        theirs = self._reference(first, first + len(cells))
        difference = ours - theirs
        distance = np.abs(difference)
        self._absolute += float(distance.sum(dtype=np.float64))
        self._max = max(self._max, float(distance.max()))
        self._histogram += np.bincount(
            np.minimum(np.ceil(distance * _STEPS), 255 * _STEPS).astype(np.int64).ravel(), minlength=255 * _STEPS + 1
        )
        self._difference.add(first, difference)
        self._heat.add(first, cells[..., 2 * c :])
        self._fine += float((cells[..., 2 * c] - np.square(cells[..., c : 2 * c]).sum(axis=2)).sum(dtype=np.float64))
        colours = c - (c in (2, 4))
        for face in self._faces:
            face.add(first, ours[..., :colours].mean(axis=2), theirs[..., :colours].mean(axis=2))

    def figures(self) -> dict[str, Any]:
        (w, h), c = self._grid, self._channels
        colours = c - (c in (2, 4))
        pixels, cells = self._size[0] * self._size[1], w * h
        variance = self._squares / pixels - float(np.square(self._sums / cells).sum())
        whole, blocks = self._difference.means()
        at = [sum(values) for values in zip(self._across.at, self._down.at, strict=True)]
        elsewhere = [sum(values) for values in zip(self._across.elsewhere, self._down.elsewhere, strict=True)]
        step, other = (total / count if count else None for total, count in (at, elsewhere))
        return {
            "difference": {
                "mean": round(self._absolute / (cells * c), 3),
                "p99": _percentile(self._histogram, 0.99) / _STEPS,
                "max": round(self._max, 3),
            },
            "fine_energy": round(max(0.0, self._fine / cells / variance), 4) if variance > _LEAST_VARIANCE * c else 0.0,
            "drift": {
                "mean": round(float(np.abs(whole[:colours]).mean()), 3),
                "local": round(float(np.percentile(np.abs(blocks[..., :colours]), 99)), 3),
            },
            "seams": None if step is None or other is None else round(step / max(other, _LEAST_STEP), 3),
            "faces": [face.figures() for face in self._faces],
        }

    def heat(self) -> NDArray[np.uint8]:
        means = self._heat.means()[1][..., 0] / self._channels
        shown: NDArray[Any] = np.minimum(np.rint(HEAT_GAIN * np.sqrt(np.maximum(means, 0))), 255)
        return shown.astype(np.uint8)


def levels(samples: Samples, channels: int) -> Floats:
    """H × W × channels in levels, 0 … 255. Colours are multiplied by alpha, and alpha is left out where `channels` has
    none; grey becomes three equal planes where `channels` has colours."""
    values = samples.astype(np.float32)
    values *= np.float32(255 / full_scale(samples.dtype))
    if samples.shape[2] in (2, 4):
        values[..., :-1] *= values[..., -1:] / np.float32(255)
    if samples.shape[2] < 3 <= channels:
        values = np.concatenate((*[values[..., :1]] * 3, values[..., 1:]), axis=2)
    return values[..., :channels] if channels in (1, 3) else values


class _Cells:
    """Means over the cells of a grid, from bands of pixels. A cell's edges may be within pixels, of which it then has a
    share."""

    def __init__(self, grid: tuple[int, int], size: tuple[int, int]) -> None:
        """(width, height) in cells and in pixels."""
        self._grid, self._size = grid, size
        self._begun: Floats | None = None
        """The row of cells that the next band goes on with."""

    def take(self, rows: range, planes: Sequence[Floats]) -> Iterator[tuple[int, Floats]]:
        """Finished rows of cells, with the number of the first. `planes`: each `rows` × width × any."""
        (w, h), height = self._grid, self._size[1]
        first = rows.start * h // height
        edges = np.arange(first, -(-rows.stop * h // height) + 1) * (height / h)
        at = np.arange(rows.start, rows.stop)
        covered = np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, None)
        down = (covered * (h / height)).astype(np.float32)
        cells = _along_rows(np.concatenate([np.tensordot(down, each, 1) for each in planes], axis=2), w)
        if self._begun is not None:
            cells[0] += self._begun
        ready = rows.stop * h // height - first
        self._begun = cells[ready] if ready < len(cells) else None
        if ready:
            yield first, cells[:ready]


def _along_rows(values: Floats, cells: int) -> Floats:
    """Rows × width × any → rows × cells × any: the means of what each cell covers."""
    width = values.shape[1]
    if width % cells == 0:
        return np.asarray(values.reshape(len(values), cells, width // cells, -1).mean(axis=2), np.float32)
    edges = np.arange(cells + 1) * (width / cells)
    whole = np.minimum(edges.astype(np.int64), width - 1)
    summed = np.zeros((len(values), width, values.shape[2]))
    np.cumsum(values[:, :-1], axis=1, dtype=np.float64, out=summed[:, 1:])
    until = summed[:, whole] + (edges - whole)[:, None] * values[:, whole]
    return np.asarray(np.diff(until, axis=1) * (cells / width), np.float32)


def _interpolation(cells: int, pixels: int, at: range, *, dense: bool = True) -> tuple[Any, Floats]:
    """Linear interpolation from cells to these pixels along a side, their middles aligned; beyond the last middles the
    last values. The first cell and the weights, pixels × cells; or, not `dense`, of each pixel the cell on the left and
    the share of the next one, pixels × 1."""
    places = np.clip((np.arange(at.start, at.stop) + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
    left = places.astype(np.int64)
    share = (places - left).astype(np.float32)
    if not dense:
        return left, share[:, None]
    weights = np.zeros((len(at), int(left[-1] - left[0]) + 2), np.float32)
    weights[np.arange(len(at)), left - left[0]] = 1 - share
    weights[np.arange(len(at)), left - left[0] + 1] = share
    return int(left[0]), weights[:, : cells - int(left[0])]


def _reduced(source: Samples, grid: tuple[int, int]) -> Rows:
    """The rows of the source on the grid."""
    h, w, channels = source.shape
    if (w, h) == grid:
        return lambda start, stop: levels(source[start:stop], channels)
    cells = _Cells(grid, (w, h))
    small: Floats = np.empty((grid[1], grid[0], channels), np.float32)
    step = max(1, _BAND_SAMPLES // (w * channels))
    for top in range(0, h, step):
        band = levels(source[top : top + step], channels)
        for first, rows in cells.take(range(top, top + len(band)), (band,)):
            small[first : first + len(rows)] = rows
    return lambda start, stop: small[start:stop]


class _Blocks:
    """Means over squares of cells; those at the right and at the bottom may be smaller."""

    def __init__(self, side: int, grid: tuple[int, int], channels: int) -> None:
        self._side = side
        self._sums: _Sums = np.zeros((math.ceil(grid[1] / side), math.ceil(grid[0] / side), channels))
        counts = [np.minimum(side, length - np.arange(0, length, side)) for length in grid]
        self._counts = (counts[1][:, None] * counts[0])[..., None]

    def add(self, first: int, rows: Floats) -> None:
        sums = np.add.reduceat(rows, np.arange(0, rows.shape[1], self._side), axis=1, dtype=np.float64)
        np.add.at(self._sums, np.arange(first, first + len(rows)) // self._side, sums)

    def means(self) -> tuple[_Sums, _Sums]:
        """Of all cells, by channel; of each square."""
        return self._sums.sum(axis=(0, 1)) / self._counts.sum(), self._sums / self._counts


class _Steps:
    """Steps between neighbouring rows of pixels (or columns, which come turned): where tiles were joined, and at the
    other borders of cells."""

    def __init__(self, joints: Iterable[int], pixels: int, cells: int) -> None:
        borders = np.unique(np.rint(np.arange(1, cells) * (pixels / cells)).astype(np.int64))
        joined = np.unique([each for each in joints if 0 < each < pixels]).astype(np.int64)
        near = np.isin(borders, np.concatenate((joined - 1, joined, joined + 1)))
        self._places = joined, borders[~near]
        self._totals = [[0.0, 0], [0.0, 0]]

    def add(self, numbers: NDArray[np.int64], rows: Floats) -> None:
        """`numbers`: of the rows, which follow each other."""
        for total, places in zip(self._totals, self._places, strict=True):
            here = places[(places > numbers[0]) & (places <= numbers[-1])] - numbers[0]
            for some in np.array_split(here, max(1, len(here) // 64)):
                total[0] += float(np.abs(rows[some] - rows[some - 1]).sum(dtype=np.float64))
            total[1] += int(len(here) * np.prod(rows.shape[1:]))

    @property
    def at(self) -> list[float]:
        """The sum of all steps at joints, and their number."""
        return self._totals[0]

    @property
    def elsewhere(self) -> list[float]:
        return self._totals[1]


class _Face:
    """How alike the grey values of a face's box are in both pictures."""

    def __init__(self, box: Box, scale: tuple[float, float], grid: tuple[int, int]) -> None:
        self._box = box
        # At least one cell, within the grid.
        low = [min(max(math.floor(box[i] * scale[i]), 0), grid[i] - 1) for i in (0, 1)]
        high = [min(max(math.ceil(box[2 + i] * scale[i]), low[i] + 1), grid[i]) for i in (0, 1)]
        self._columns, self._rows = slice(low[0], high[0]), range(low[1], high[1])
        self._sums: _Sums = np.zeros(7)

    def add(self, first: int, ours: Floats, theirs: Floats) -> None:
        inside = slice(max(0, self._rows.start - first), max(0, self._rows.stop - first))
        a, b = (each[inside, self._columns].astype(np.float64) for each in (ours, theirs))
        self._sums += [a.size, a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum(), np.abs(a - b).sum()]

    def figures(self) -> dict[str, Any]:
        count, a, b, aa, bb, ab, distance = self._sums / max(self._sums[0], 1)
        spread = (aa - a * a) * (bb - b * b)
        return {
            "box": [round(float(each), 1) for each in self._box],
            "correlation": round(float((ab - a * b) / math.sqrt(spread)), 4) if spread > 1e-6 else None,
            "difference": round(float(distance), 3),
        }


def _percentile(histogram: NDArray[np.int64], share: float) -> int:
    """The lowest bin up to which there is this share of all values."""
    return int(np.searchsorted(histogram.cumsum(), share * histogram.sum()))


def _pieces(stream: Stream) -> Iterator[Samples]:
    """Its bands, none of them large."""
    step = max(1, _BAND_SAMPLES // (stream.width * stream.channels))
    for band in stream.bands:
        for top in range(0, len(band), step):
            yield band[top : top + step]
