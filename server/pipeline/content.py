"""What a picture shows, as far as it matters for enlarging it: a photograph, text, or a drawing.

Networks that invent detail also invent letters, and garble small clean text. So screens, charts and clean prints are
distinguished from photographs by measurements, without a network. Letters are blocks with one even background and sharp
steps; the whole picture has few such backgrounds; lines of text have gaps between them; and programs draw neighbouring
pixels exactly equal, which no camera does. The weights of the sum were fitted by `benchmarks.content` for few false
alarms on photographs. A page with a photograph in it is text.

The same samples always give the same answer. Of large pictures, evenly spread places are measured.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["photo", "text", "drawing"]

_TILE, _BLOCK = 64, 16
_MOST_TILES = 192
"""Of any picture: 0.8 megapixels, about 20 ms."""
_LEAST = 8
"""Pixels: readable lines of text are at least this high."""
_STEP, _NOISE = 40, 4
"""Levels between neighbours: the edge of a letter has at least the first; less than the second is noise."""


@dataclass(frozen=True)
class Measures:
    """All are shares in 0 … 1 but `rows`."""

    letters: float
    """Of all blocks, those that look like letters: one background, hard steps in several rows."""
    of_busy: float
    """The same share, of the blocks that are not flat."""
    papers: float
    """Of the blocks of letters, those on one of the three commonest backgrounds."""
    equal: float
    """Of all pixels, those that equal their neighbour."""
    rows: float
    """How unevenly sharp steps are spread over rows of pixels (deviation divided by mean), where there are letters:
    lines of text with gaps have more than 1, hatching and leaves less than a half."""
    straight: float
    """Of the blocks of letters, those with a straight edge from side to side, as frames and bars have."""
    calm: float
    """Of the pixels of busy blocks, those whose neighbour is nearly the same: drawings are flat on both sides of a
    line, photographs are not."""
    hard: float
    """Of the steps in busy blocks that are more than noise, the sharp ones."""
    even: float
    """Share of its commonest 16 levels in a busy block, the mean."""

    @property
    def score(self) -> float:
        """How much like text; above `LETTERED` the picture has text in it, or lines as clean as text."""
        spread = 2.0 * float(np.log(self.letters + 0.005)) + 2.0 * float(np.log(self.of_busy + 0.02))
        return spread + 2.6 * self.papers + 3.7 * self.equal + 5.2 * min(self.rows, 1.5)


LETTERED = 3.25


def kind(samples: NDArray[Any]) -> Kind:
    """Of H × W × C (or H × W) samples of 8 or 16 bits, grey or RGB, with alpha or without; H and W from 1."""
    if min(samples.shape[:2]) < _LEAST:
        return "photo"
    found = measure(samples)
    if found.score >= LETTERED:
        return "text" if found.rows >= 0.66 or found.straight >= 0.55 else "drawing"
    flat = found.calm >= 0.65 and found.hard >= 0.1 and found.even >= 0.65 and found.equal >= 0.7
    return "drawing" if flat else "photo"


def measure(samples: NDArray[Any]) -> Measures:
    """See `kind`."""
    tiles = _grey(_tiles(samples))
    n, across = len(tiles), _TILE // _BLOCK
    count = n * across * across

    def by_block(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        rows = mask.reshape(n * across, _BLOCK, _TILE).sum(axis=1, dtype=np.uint8)
        return np.asarray(rows.reshape(count, _BLOCK).sum(axis=1, dtype=np.int64))

    blocks = tiles.reshape(n, across, _BLOCK, across, _BLOCK).swapaxes(2, 3).reshape(count, _BLOCK * _BLOCK)
    spread = blocks.max(axis=1) - blocks.min(axis=1)
    background, share = _background(blocks)
    right = np.zeros_like(tiles)
    right[..., :-1] = np.maximum(tiles[..., 1:], tiles[..., :-1]) - np.minimum(tiles[..., 1:], tiles[..., :-1])
    hard_steps = right >= _STEP
    hard, any_steps = by_block(hard_steps), by_block(right >= _NOISE)
    per_row = hard_steps.reshape(n, _TILE, across, _BLOCK).sum(axis=3, dtype=np.uint8)
    rows = (per_row > 0).reshape(n, across, _BLOCK, across).sum(axis=2).reshape(count)

    busy = spread >= 24
    letters = (spread >= 48) & (share >= 0.45) & (rows >= 3) & (5 * hard >= any_steps)
    how_many, how_busy = int(letters.sum()), int(busy.sum())
    in_tile = letters.reshape(n, -1).sum(axis=1)
    weight = np.where(in_tile >= 2, in_tile, 0)
    profile = per_row.sum(axis=2, dtype=np.float64)
    unevenness = profile.std(axis=1) / np.maximum(profile.mean(axis=1), 0.01)
    commonest = np.sort(np.bincount(background[letters], minlength=31))[-3:]
    return Measures(
        letters=how_many / count,
        of_busy=how_many / max(1, how_busy),
        papers=float(commonest.sum() / max(1, how_many)),
        equal=float((right == 0).mean()),
        rows=float((weight * unevenness).sum() / max(1, weight.sum())),
        straight=_straight(tiles, hard_steps, letters) / max(1, how_many),
        calm=1 - float(any_steps[busy].sum()) / max(1, how_busy * _BLOCK * _BLOCK),
        hard=float(hard[busy].sum() / max(1, any_steps[busy].sum())),
        even=float(share[busy].mean()) if how_busy else 1.0,
    )


def _tiles(samples: NDArray[Any]) -> NDArray[Any]:
    """N × 64 × 64 × C: all of a small picture, evenly spread places of a large one."""
    pixels = samples if samples.ndim == 3 else samples[..., None]
    h, w = pixels.shape[:2]
    down, across = max(1, h // _TILE), max(1, w // _TILE)
    if down * across > _MOST_TILES:
        across = max(1, min(across, round((_MOST_TILES * w / h) ** 0.5)))
        down = max(1, min(down, _MOST_TILES // across))
        across = max(1, min(w // _TILE, _MOST_TILES // down))
    tops = np.linspace(0, max(0, h - _TILE), down).round().astype(int)
    lefts = np.linspace(0, max(0, w - _TILE), across).round().astype(int)
    found = [pixels[top : top + _TILE, left : left + _TILE] for top in tops for left in lefts]
    if h < _TILE or w < _TILE:
        beyond = ((0, max(0, _TILE - h)), (0, max(0, _TILE - w)), (0, 0))
        found = [np.pad(each, beyond, mode="symmetric") for each in found]
    return np.stack(found)


def _grey(tiles: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of luma. Transparent pixels become grey, on which both black and white letters are visible."""
    if tiles.dtype != np.uint8:
        tiles = (tiles >> 8).astype(np.uint8)
    channels = tiles.shape[-1]
    if channels >= 3:
        red, green, blue = (tiles[..., k].astype(np.uint16) for k in range(3))
        luma = (red * 5 + green * 9 + blue * 2) >> 4
    else:
        luma = tiles[..., 0].astype(np.uint16)
    if channels in (2, 4):
        alpha = tiles[..., -1].astype(np.uint16)
        luma = (luma * alpha + 128 * (255 - alpha)) // 255
    return np.asarray(luma, np.uint8)


def _background(blocks: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each block the commonest 16 neighbouring levels (their number), and their share of it."""
    count = len(blocks)
    bins = (blocks >> 3) + np.arange(0, 32 * count, 32, dtype=np.int32)[:, None]
    histogram = np.bincount(bins.ravel(), minlength=32 * count).reshape(count, 32)
    pairs = histogram[:, :-1] + histogram[:, 1:]
    commonest = pairs.argmax(axis=1)
    return commonest, pairs[np.arange(count), commonest] / blocks.shape[1]


def _straight(tiles: NDArray[np.uint8], hard: NDArray[np.bool_], letters: NDArray[np.bool_]) -> int:
    """How many blocks of letters an edge runs through from side to side, upright or level."""
    n, across = len(tiles), _TILE // _BLOCK
    blocks = (n, across, _BLOCK, across, _BLOCK)
    upright = np.any(np.all(hard.reshape(blocks), axis=2), axis=3)
    below = np.zeros_like(hard)
    below[:, :-1] = np.maximum(tiles[:, 1:], tiles[:, :-1]) - np.minimum(tiles[:, 1:], tiles[:, :-1]) >= _STEP
    level = np.any(np.all(below.reshape(blocks), axis=4), axis=2)
    return int((letters & (upright | level).reshape(-1)).sum())
