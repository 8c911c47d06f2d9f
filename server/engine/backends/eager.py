"""Networks in torch, layer by layer, with the algorithms of cuDNN on a GPU.

How they round depends on the size of the batch, so batches are filled up.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from server.engine.backends.base import Tile
from server.engine.backends.graphs import Graphs
from server.models.base import Model

_BLACK = 1 / 512
TOPS = {torch.uint8: 255, torch.int16: 65535}


class Eager:
    filled = True
    most = 4
    """Of a single thumbnail, so many are computed."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs

    def runs(self, model: Model) -> bool:
        return model.native is None and model.fused is None

    def compute(self, tiles: Sequence[Tile], samples: Tensor) -> tuple[list[Tensor], Tensor | None]:
        model, exact = tiles[0].model, tiles[0].exact
        image = to_image(samples)
        pixels = len(image) * image.shape[2] * image.shape[3]
        result = (
            model(image, exact=exact)
            if exact or not model.facts.recordable
            else self._graphs.run(id(model), model, image, pixels)
        )
        check = not exact and model.dtype is not torch.float32
        overflows = overflowed(image, result) if check else None  # first: samples are made in place
        return [to_samples(each, tile) for each, tile in zip(result, tiles, strict=False)], overflows


def overflowed(image: Tensor, result: Tensor) -> Tensor:
    """N bytes, 1 for an overflow. Half precision can overflow to NaN, or to black where the source is not black."""
    black = (result.amax((1, 2, 3)) < _BLACK) & (image.amax((1, 2, 3)) > 8 * _BLACK)
    return (black | ~torch.isfinite(result).flatten(1).all(1)).to(torch.uint8)


def to_image(samples: Tensor) -> Tensor:
    """N × H × W × C as `Transfer.stage` returns them, of one or three channels → (N, 3, H, W) float32 in [0, 1]."""
    top = TOPS[samples.dtype]
    if samples.dtype == torch.int16:
        samples = samples.int().bitwise_and_(65535)
    return samples.permute(0, 3, 1, 2).float().div_(top).expand(-1, 3, -1, -1)


def to_samples(image: Tensor, tile: Tile) -> Tensor:
    """(3, H, W) float32 → the kept part in the tile's type, H × W × C; `image` may be changed. Integers are made on the
    device, which is a fourth of the bytes to copy. uint16 is returned as int16 of the same bits."""
    image = image[:, tile.rows, tile.columns]
    if tile.samples.shape[2] == 1:
        image = image.mean(dim=0, keepdim=True)
    image = image.permute(1, 2, 0)
    if tile.dtype == np.uint8:
        return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    if tile.dtype == np.uint16:
        return image.mul_(65535).round_().clamp_(0, 65535).int().to(torch.int16)
    return image
