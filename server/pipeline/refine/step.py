"""The diffusion pass, at the size of the result, and the correction of a strict result by its source.

The enlarged picture is first written to disk. It is then refined in large regions, whose borders are blended like those
of tiles, so that memory does not grow with the picture. Within a region the sampler cuts tiles.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from server.engine.tile import Span, blend_weights, blended, cut
from server.images.read.alpha_bleeding import RESAMPLED, bleed_alpha
from server.images.read.open import Samples
from server.images.samples import Floats, from_floats, to_8_bits, to_floats
from server.job.creativity import ANCHORS, Recipe
from server.job.tiling import round_up, shortest_tile, tiles_along
from server.job.wrap import NO_BORDER
from server.pipeline.base import Context, Refinement
from server.pipeline.refine.backprojection import BackProjection
from server.pipeline.refine.sampler import locked, noise_at, sample, tile_count, tiles
from server.refiners import Grid, Refiner, whole_recipe
from server.rows.resample import resized
from server.rows.spool import Spool
from server.rows.stream import Stream

_CUDA_BATCH = 4
_REGION_PIXELS = 6 * 1024 * 1024
_BAND_PIXELS = 10 * 1024 * 1024
"""Of a row of regions, which is in memory as floats: 120 MB."""
_BLEND = 32
_HALO = 64
"""Pixels of the result at each side of a seam between regions: `_BLEND` are blended, `_HALO` are computed."""
_SMALLEST = 512
"""Side of a region that is one of several."""
_MULTIPLE = 64
"""Regions may have sides that are multiples of this with every refiner."""


def expect(ctx: Context) -> None:
    """Load the network, if one is wanted, and announce its work."""
    wanted = _recipe(ctx)
    if wanted is None or not wanted.diffuses:
        ctx.expect("refine", 0.0)
        return
    assert ctx.plan is not None
    w, h = ctx.plan.canvas
    with ctx.clock("load"):
        refiner = ctx.load_refiner()
    ctx.expect("refine", w * h * refiner.settings(ctx.creativity).steps * refiner.work)


def run(ctx: Context) -> None:
    wanted = _recipe(ctx)
    if wanted is None:
        return
    refiner = ctx.load_refiner() if wanted.diffuses else None
    assert ctx.stream is not None and ctx.plan is not None  # those steps came before
    name, sha256 = (refiner.name, refiner.sha256) if refiner else (None, None)
    stated = whole_recipe(ctx.creativity) | {"back_projection": wanted.back_projection}
    ctx.refinement = Refinement(stated, name, sha256, ctx.seed)
    size, border, stream = ctx.plan.canvas, ctx.plan.result_border, ctx.stream
    work = _Work.of(ctx, refiner, wanted, ctx.seed, stream.channels)
    whole = resized(stream, size, np.uint16, ctx.engine.kernel, border)
    depth = np.uint16 if ctx.rows_are_deep or border != NO_BORDER else np.uint8
    ctx.stream = Stream(*size, stream.channels, depth, ctx.timed("refine", _bands(work, whole, depth)), border)


def _recipe(ctx: Context) -> Recipe | None:
    """What this step has to do, or None for nothing."""
    if ctx.plan is None or not ctx.plan.passes:
        return None
    wanted = ctx.recipe
    return wanted if wanted.diffuses or wanted.back_projection else None


@dataclass(frozen=True)
class _Work:
    """The pass over one picture: its regions, and what is done to each."""

    ctx: Context
    refiner: Refiner | None
    recipe: Recipe
    settings: Any
    """Of the refiner, for the creativity; None without a refiner."""
    seed: int
    colours: int
    rows: list[Span]
    columns: list[Span]
    size: tuple[int, int]
    """(width, height) of the result, with the border of one that wraps."""
    period: tuple[int | None, int | None]
    """Rows and columns of the result after which it repeats; None: never."""
    lock: float
    """Pixels of the result."""
    projection: BackProjection | None

    @classmethod
    def of(cls, ctx: Context, refiner: Refiner | None, wanted: Recipe, seed: int, channels: int) -> "_Work":
        assert ctx.plan is not None
        plan, colours = ctx.plan, _colours(channels)
        rows, columns = _regions(*plan.canvas)
        projection = None
        if wanted.back_projection and plan.result[0] >= plan.source[0] and plan.result[1] >= plan.source[1]:
            source = _to_tensor(ctx.samples, colours)
            most = math.inf if ctx.metadata.code_points is None else float(source.max())
            projection = BackProjection(source, plan.canvas, plan.border, plan.result_border, most)
        lock = wanted.lock * max(ctx.whole or plan.result) / 1024
        x, y = (length if border else None for length, border in zip(plan.result, plan.result_border, strict=True))
        settings = None if refiner is None else refiner.settings(ctx.creativity)
        size = plan.canvas
        return cls(ctx, refiner, wanted, settings, seed, colours, rows, columns, size, (y, x), lock, projection)

    @property
    def tiles(self) -> int:
        """Number of tiles to denoise, over all steps; 0 without a refiner."""
        if self.refiner is None:
            return 0
        sizes = [(c.stop - c.start, r.stop - r.start) for r in self.rows for c in self.columns]
        steps = len(self.refiner.scheduler(self.settings)[1])
        return steps * sum(tile_count(size, self.refiner.grid) for size in sizes)

    def region(self, picture: Tensor, row: Span, column: Span) -> Tensor:
        """1 × 3 × H × W in 0…1, refined."""
        result = picture
        if self.refiner is not None:
            down, width = self.refiner.downscale, round_up(self.size[0], _MULTIPLE)
            # Where the result's length is not a multiple, the noise repeats nearly as the result does.
            period = tuple(each and max(1, round(each / down)) for each in self.period)
            noise = noise_at(
                self.seed,
                (row.start // down, row.stop // down),
                (column.start // down, column.stop // down),
                width // down,
                self.refiner.channels,
                (period[0], period[1]),
            ).to(picture.device)
            batch = _CUDA_BATCH if picture.is_cuda else 1  # on the CPU a single tile fills it
            run = self.ctx.engine.run
            refined = sample(self.refiner, picture, noise, self.settings, run, self.refiner.grid, batch, self._count)
            result = locked(refined, picture, self.lock, self.recipe.gain)
        if self.projection is not None:
            inside = result[..., : self.size[1] - row.start, : self.size[0] - column.start]
            result[..., : inside.shape[2], : inside.shape[3]] = self.projection(
                inside, row.start, column.start, self.recipe.back_projection
            )
        self.ctx.check()
        return result

    def refined(self, picture: Tensor, row: Span, column: Span) -> Floats:
        """The same on the host, H × W × 3."""
        return self.ctx.engine.to_host(self.region(picture, row, column)[0].permute(1, 2, 0))

    def _count(self, tiles: int) -> None:
        self.ctx.advance("refine", tiles / self.tiles * self.ctx.work["refine"].work)


def _bands(work: _Work, picture: Stream, depth: type[np.uint8] | type[np.uint16]) -> Iterator[Samples]:
    """Finished rows from top to bottom; the seams between rows of regions are blended."""
    with closing(Spool(picture, work.ctx.target.parent)) as spool:
        parts = (_row(work, spool.rows(row.start, min(row.stop, spool.height)), row) for row in work.rows)
        finished = blended(parts, work.rows, 1, _BLEND)
        for row in work.rows:
            top = row.keep_start
            band = next(finished)[: spool.height - top]
            alpha = spool.rows(top, top + len(band))[..., work.colours :] if spool.channels > work.colours else None
            yield _rounded(band, alpha, work.colours, depth)
            del band  # or the next one would be in memory at the same time


def _row(work: _Work, source: Samples, row: Span) -> Floats:
    """One row of regions, joined side by side: kept rows × width × 3."""
    if source.shape[2] > work.colours:  # resizing has made transparent pixels black
        source = bleed_alpha(source, RESAMPLED)
    width = source.shape[1]
    height = row.stop - row.start
    band = np.zeros((row.keep_stop - row.keep_start, width, 3), np.float32)
    for index, column in enumerate(work.columns):
        part = source[:, column.start : column.stop]
        picture = _to_tensor(part, work.colours).to(work.ctx.engine.device)
        picture = _padded(picture, height, column.stop - column.start)
        refined = work.ctx.engine.patiently(partial(work.refined, picture, row, column))
        kept = refined[row.keep_start - row.start :, column.keep_start - column.start :]
        kept = kept[: len(band), : min(column.keep_stop, width) - column.keep_start]
        weight = blend_weights(work.columns, index, 1, _BLEND)[: kept.shape[1], None]
        band[:, column.keep_start : column.keep_start + kept.shape[1]] += kept * weight
    return band


def _regions(w: int, h: int) -> tuple[list[Span], list[Span]]:
    """Rows and columns of regions for a result of w × h, both padded to multiples. As few as possible, all of the same
    size."""
    width, height = round_up(w, _MULTIPLE), round_up(h, _MULTIPLE)
    rows = max(_SMALLEST, min(height, _BAND_PIXELS // width))
    columns = max(_SMALLEST, min(width, _REGION_PIXELS // rows))
    rows = max(_SMALLEST, min(rows, _REGION_PIXELS // columns))
    return (
        cut(height, _even(height, rows), _HALO, _BLEND, _MULTIPLE),
        cut(width, _even(width, columns), _HALO, _BLEND, _MULTIPLE),
    )


def _even(length: int, most: int) -> int:
    """The length of the regions when they are as few as possible and none is longer than `most`."""
    side = shortest_tile(length, tiles_along(length, most, _HALO), _HALO)
    return max(round_up(side, _MULTIPLE), _SMALLEST)


def _colours(channels: int) -> int:
    return 3 if channels >= 3 else 1


def _to_tensor(samples: Samples, colours: int) -> Tensor:
    """H × W × channels → 1 × 3 × H × W float32 in 0…1, without alpha; grey three times."""
    image = torch.from_numpy(to_floats(samples[..., :colours])).permute(2, 0, 1)[None]
    return image.expand(-1, 3, -1, -1).contiguous()


def _padded(picture: Tensor, height: int, width: int) -> Tensor:
    """Padded to this size by repeating the last rows and columns."""
    bottom, right = height - picture.shape[2], width - picture.shape[3]
    if not bottom and not right:
        return picture
    return torch.nn.functional.pad(picture, (0, right, 0, bottom), mode="replicate")


def _rounded(band: Floats, alpha: Samples | None, colours: int, depth: type[np.uint8] | type[np.uint16]) -> Samples:
    """Rows of 0…1 and their alpha (16 bits) in the result's depth; grey as the mean of the three."""
    if colours == 1:
        band = band.mean(axis=2, keepdims=True)
    rounded: Samples = from_floats(band, depth)
    if alpha is None:
        return rounded
    share = alpha if depth is np.uint16 else to_8_bits(alpha)
    joined: Samples = np.concatenate((rounded, share), axis=2)  # type: ignore[assignment]
    return joined


def borders(w: int, h: int, grid: Grid) -> tuple[list[int], list[int]]:
    """Rows and columns of a result of w × h at which a tile or a region of any step ends, for benchmarks."""
    found = []
    for regions in _regions(w, h):
        lines = {line for region in regions for line in (region.keep_start, region.keep_stop)}
        for region in regions:
            for number in range(max(each.steps for each in ANCHORS.values())):
                for start, stop in tiles(region.stop - region.start, grid, number):
                    lines |= {region.start + start, region.start + stop}
        found.append(sorted(lines))
    return found[0], found[1]
