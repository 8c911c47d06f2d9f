"""The diffusion pass over one region of a picture, in tiles that are joined at every step.

All tiles have the same noise in the same place and are blended before each step of the scheduler, so that they agree on
the detail (MultiDiffusion, arXiv:2302.08113; mixture of diffusers, arXiv:2302.02412). The tiles are cut differently at
each step, so that no line is a border twice.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from server.engine.tile import raised_cosine
from server.job.tiling import tiles_along
from server.refiners.base import Grid, Refiner

_NOISE_ROWS = 16
_JITTER = 64
"""Pixels by which tiles can be moved from step to step."""
_CELL = 8
"""Pixels. Side of the cells on which a picture's coarse properties are measured."""
_DISTANCE = 3
_FLAT = 1.3 / 255
"""Standard deviation at which half of the detail is kept."""
_MOST = 4.0
"""Largest detail, in standard deviations of the picture around it."""
_GOLDEN = (math.sqrt(5) - 1) / 2

Spans = list[tuple[int, int]]
"""(start, stop) of tiles along a side."""


class Run(Protocol):
    """Runs a function of tensors on the device, in smaller batches if memory runs out: `Engine.run`."""

    def __call__(self, function: Callable[..., Tensor], /, *tensors: Tensor) -> Tensor: ...


def sample(
    refiner: Refiner,
    picture: Tensor,
    noise: Tensor,
    settings: Any,
    run: Run,
    grid: Grid,
    batch: int = 1,
    on_tiles: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """The refined region, 1 × 3 × H × W in about [0, 1].

    `picture`: 1 × 3 × H × W in [0, 1], sides multiples of `grid.multiple`; `noise`: a latent of that size, see
    `noise_at`. `settings` are the refiner's for a creativity. `grid` is the refiner's own or a smaller one. `batch`
    tiles go to `run` together. `on_tiles` is called with the number of tiles that were denoised; it may raise, which
    ends the run.
    """
    scheduler, steps = refiner.scheduler(settings)
    latent = scheduler.add_noise(run(refiner.encode, picture), noise, steps[:1])
    for number, step in enumerate(steps):
        cuts = tiles(picture.shape[2], grid, number), tiles(picture.shape[3], grid, number)
        noisy = scheduler.scale_model_input(latent, step)
        denoise = partial(run, partial(refiner.denoise, step=step, settings=settings))
        fused = _fused(refiner, noisy, picture, denoise, grid, batch, cuts, on_tiles)
        latent = scheduler.step(fused, step, latent, return_dict=False)[0]
    return run(refiner.decode, latent, picture)


def tile_count(size: tuple[int, int], grid: Grid) -> int:
    """How many tiles one step of a region of (width, height) takes."""
    return len(tiles(size[0], grid, 0)) * len(tiles(size[1], grid, 0))


def tiles(length: int, grid: Grid, step: int) -> Spans:
    """The tiles of a step along a side of `length` pixels: all of the same length; neighbours share at least two
    halos."""
    if length <= grid.tile:
        return [(0, length)]
    shared = 2 * grid.halo
    count = tiles_along(length, grid.tile - _JITTER, grid.halo)
    room = (length - grid.tile) / (count - 1)
    slack = min(grid.tile - shared - room - grid.multiple, room - grid.multiple)
    # The golden ratio's multiples never come near each other.
    shift = ((step * _GOLDEN) % 1 - 0.5) * slack
    starts = [0, *(round(number * room + shift) for number in range(1, count - 1)), length - grid.tile]
    starts = [start // grid.multiple * grid.multiple for start in starts]
    return [(start, start + grid.tile) for start in starts]


def _fused(
    refiner: Refiner,
    noisy: Tensor,
    picture: Tensor,
    denoise: Callable[[Tensor, Tensor], Tensor],
    grid: Grid,
    batch: int,
    cuts: tuple[Spans, Spans],
    on_tiles: Callable[[int], None],
) -> Tensor:
    """What the refiner returns for each tile, blended into one."""
    total = torch.zeros_like(noisy)
    weight = torch.zeros_like(noisy[:, :1])
    down = refiner.downscale
    places = list(product(*cuts))
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        within = [(..., slice(y[0] // down, y[1] // down), slice(x[0] // down, x[1] // down)) for y, x in some]
        of_picture = [picture[..., slice(*y), slice(*x)] for y, x in some]
        answers = denoise(torch.cat([noisy[each] for each in within]), torch.cat(of_picture))
        for number, (y, x) in enumerate(some):
            vertical = _window(y, picture.shape[2], grid.halo, down, noisy.device)
            window = vertical[:, None] * _window(x, picture.shape[3], grid.halo, down, noisy.device)
            total[within[number]] += answers[number] * window
            weight[within[number]] += window
        on_tiles(len(some))
    return total.div_(weight)


def _window(span: tuple[int, int], length: int, halo: int, down: int, device: torch.device) -> Tensor:
    """The weight of each sample of a tile, along one side. At a border inside the region the outermost half halo, where
    the network lacks context, has almost no weight; from there the weight rises over one halo."""
    size = (span[1] - span[0]) // down
    place = np.arange(size) + 0.5
    weight = np.ones(size, np.float32)
    for inner, distance in ((span[0] > 0, place), (span[1] < length, size - place)):
        if inner:
            rise = np.clip((distance * down - halo / 2) / halo, 0, 1)
            weight *= np.maximum(raised_cosine(rise), np.float32(1e-4))
    return torch.from_numpy(weight).to(device)


def noise_at(
    seed: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    width: int,
    channels: int,
    period: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """Standard normal noise, 1 × channels × rows × columns, of a part of an endless canvas `width` samples wide. The
    same place always has the same noise, whichever part is computed; `period`: and so has what is so many rows or
    columns further."""
    down, across = (np.arange(*part) % (each or part[1]) for part, each in zip((rows, columns), period, strict=True))
    blocks = []
    for run in np.split(down, np.flatnonzero(np.diff(down) != 1) + 1):  # each of rows that follow one another
        for block in range(run[0] // _NOISE_ROWS, run[-1] // _NOISE_ROWS + 1):
            # A counter-based generator (Salmon et al. 2011) can start anywhere; the second word of its counter is a
            # block.
            rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, block, 0, 0]))
            drawn = rng.standard_normal((_NOISE_ROWS, width, channels), np.float32)
            first = block * _NOISE_ROWS
            blocks.append(drawn[max(0, run[0] - first) : run[-1] + 1 - first, across])
    return torch.from_numpy(np.concatenate(blocks)).permute(2, 0, 1)[None].contiguous()


def locked(refined: Tensor, picture: Tensor, radius: float, gain: float) -> Tensor:
    """The detail of `refined` over `picture`, times `gain`, without what is wider than `radius` pixels (standard
    deviation of a Gaussian), so that colours and large shapes stay those of the picture. Without colour, which is
    mostly noise, and without detail where the picture is flat, as in a sky; single bright or dark dots are limited to
    what the picture has around them. Both 1 × 3 × H × W."""
    detail = refined - picture
    detail -= _lowpass(detail, radius)
    detail = detail.mean(dim=1, keepdim=True)
    variance = _variance(picture)
    most = _grown(_MOST * variance.sqrt(), detail)
    detail = torch.minimum(torch.maximum(detail, -most), most)
    return torch.addcmul(picture, detail, _grown(_activity(variance), detail), value=gain)


def _variance(picture: Tensor) -> Tensor:
    """1 × 1 × cells: how rough a picture is around each cell, as a variance: that of the smoothest cell there, so that
    smooth ground beside an edge counts as smooth."""
    grey = picture.mean(dim=1, keepdim=True)
    # The difference from a line through both neighbours, so that a gradient counts as flat.
    rough = _reduced(_bend(grey, 2) + _bend(grey, 3))
    return -functional.max_pool2d(-rough, 3, stride=1, padding=1)


def _activity(variance: Tensor) -> Tensor:
    """0 where a picture is flat, near 1 where it has detail of more than _FLAT."""
    square = variance.square()  # steep, because a sky in 8 bits has steps of one level
    return square / (square + _FLAT**4)


def _lowpass(image: Tensor, radius: float) -> Tensor:
    """Gaussian blur, on a picture reduced to cells, which are much smaller than the radius."""
    h, w = image.shape[2:]
    small = _reduced(image)
    sigma = max(radius / _CELL, 0.5)
    radius_cells = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius_cells, radius_cells + 1, device=image.device) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(image.shape[1], 1, 1, -1)
    small = functional.pad(small, [radius_cells] * 4, mode="replicate")
    small = functional.conv2d(small, taps, groups=image.shape[1])
    small = functional.conv2d(small, taps.transpose(2, 3), groups=image.shape[1])
    return _grown(small, image)


def _bend(image: Tensor, dim: int) -> Tensor:
    """Squared second difference along a dimension, from neighbours _DISTANCE away."""
    length = image.shape[dim]
    reach = min(_DISTANCE, (length - 1) // 2)
    inner = image.narrow(dim, reach, length - 2 * reach)
    around = image.narrow(dim, 0, length - 2 * reach) + image.narrow(dim, 2 * reach, length - 2 * reach)
    sides = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
    return functional.pad((around / 2 - inner).square(), sides, mode="replicate")


def _reduced(image: Tensor) -> Tensor:
    """The mean of each cell."""
    return functional.avg_pool2d(image, _CELL, ceil_mode=True, count_include_pad=False)


def _grown(small: Tensor, like: Tensor) -> Tensor:
    """Back to the size of `like`."""
    grown = functional.interpolate(small, scale_factor=_CELL, mode="bilinear", align_corners=False)
    return grown[..., : like.shape[2], : like.shape[3]]
