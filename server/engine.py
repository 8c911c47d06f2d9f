"""Runs networks over pictures in tiles: the loop that everything else is there to feed.

One engine per device. A picture goes in as HWC samples and comes out as finished bands of rows, top to bottom, so that
neither the device nor the float canvas grows with it. What can go wrong on a device is handled here and nowhere else:
out of memory halves the batch, then the tile, and remembers; a result that is not finite, or black where the source is
not, is computed again in fp32.
"""

from collections.abc import Callable, Iterator

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.device import is_out_of_memory, release_memory
from server.errors import OutOfMemory
from server.models.base import Model
from server.picture import Samples
from server.tile import Span, cut, weights

log = structlog.get_logger()

Floats = NDArray[np.float32]

_CUDA_BATCH = 4
_SMALLEST_KEPT = 32
"""Pixels that a tile must be long beyond its halos and blends; smaller ones are nearly all halo."""
_BLACK = 1 / 512


class Engine:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        # On the CPU, batching tiles of this size gains nothing.
        self._batch = _CUDA_BATCH if device.type == "cuda" else 1
        self._tiles: dict[str, int] = {}
        """Largest tile that fitted, by model, once one did not."""

    def upscale(
        self, model: Model, samples: Samples, *, tile: int = 0, on_tile: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, Floats]]:
        """Yield (y, band): finished rows of the result from row y on, H_band × W·scale × 3 float32 in about [0, 1].

        `samples`: H × W × 3, RGB. `tile`: side in source pixels, 0 for the model's own. `on_tile` is called after each
        tile; it may raise, which ends the run. Raises OutOfMemory.
        """
        facts = model.facts
        h, w = samples.shape[:2]
        padded = _pad(samples, facts.multiple)
        side = self.side(model, tile)
        rows = cut(padded.shape[0], side, facts.halo, facts.blend, facts.multiple)
        columns = cut(padded.shape[1], side, facts.halo, facts.blend, facts.multiple)
        carry: Floats | None = None  # rows that the next row of tiles still adds to
        shared = 2 * facts.blend * facts.scale
        for index, row in enumerate(rows):
            band = self._row(model, padded, row, columns, on_tile)
            band *= weights(rows, index, facts.scale, facts.blend)[:, None, None]
            if carry is not None:
                band[: len(carry)] += carry
            top = row.keep_start * facts.scale
            if index < len(rows) - 1 and shared:
                band, carry = band[:-shared], band[-shared:].copy()
            yield top, band[: h * facts.scale - top, : w * facts.scale]

    def side(self, model: Model, tile: int = 0) -> int:
        """The side of the tiles that `upscale` will cut: what was asked for, within what fits and what makes sense."""
        multiple = model.facts.multiple
        side = min(tile or model.facts.tile, self._tiles.get(model.name, 1 << 30))
        return max(side, _smallest_side(model)) // multiple * multiple

    def _row(
        self, model: Model, samples: Samples, row: Span, columns: list[Span], on_tile: Callable[[], None] | None
    ) -> Floats:
        """One row of tiles, joined side by side."""
        scale, blend = model.facts.scale, model.facts.blend
        height = (row.keep_stop - row.keep_start) * scale
        band = np.zeros((height, samples.shape[1] * scale, samples.shape[2]), np.float32)
        first = 0
        while first < len(columns):
            batch = columns[first : first + self._batch]  # _run may make the batch smaller for those that follow
            tiles = [samples[row.start : row.stop, column.start : column.stop] for column in batch]
            for i, result in enumerate(self._run(model, _to_tensor(tiles, self.device))):
                column = batch[i]
                kept = result[:, _kept(row, scale), _kept(column, scale)]
                pixels = kept.permute(1, 2, 0).cpu().numpy()
                target = band[:, column.keep_start * scale : column.keep_stop * scale]
                if blend:
                    target += pixels * weights(columns, first + i, scale, blend)[None, :, None]
                else:
                    target[:] = pixels
                if on_tile is not None:
                    on_tile()
            first += len(batch)
        return band

    def _run(self, model: Model, image: Tensor, *, exact: bool = False) -> Tensor:
        """(N, 3, H, W) → (N, 3, H·scale, W·scale), in smaller pieces if it must be, in fp32 if it must be."""
        try:
            result = model(image, exact=exact)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            if exact or not _overflowed(model, image, result):
                return result
            log.warning("a tile overflowed: computing it again in fp32", model=model.name, dtype=str(model.dtype))
            del result  # fp32 needs twice the memory
            return self._run(model, image, exact=True)
        # Out of the except block: the exception holds the frames, and the frames hold the memory.
        release_memory(self.device)
        if len(image) > 1:
            self._batch = len(image) // 2
            log.warning("out of memory: halving the batch", model=model.name, batch=self._batch)
            return torch.cat([self._run(model, part, exact=exact) for part in torch.split(image, self._batch)])
        return self._run_cut(model, image, exact)

    def _run_cut(self, model: Model, image: Tensor, exact: bool) -> Tensor:
        """One tile that did not fit, as smaller tiles, whose seams are not blended."""
        facts = model.facts
        h, w = image.shape[2:]
        side = max(h, w) // 2 // facts.multiple * facts.multiple
        if side < _smallest_side(model):
            raise OutOfMemory(f"not even a tile of {w}×{h} pixels fits on {self.device}")
        self._tiles[model.name] = min(side, self._tiles.get(model.name, side))
        log.warning("out of memory: halving the tile", model=model.name, tile=side)
        scale = facts.scale
        result = torch.empty(1, image.shape[1], h * scale, w * scale, device=image.device)
        for row in cut(h, side, facts.halo, multiple=facts.multiple):
            for column in cut(w, side, facts.halo, multiple=facts.multiple):
                part = self._run(model, image[:, :, row.start : row.stop, column.start : column.stop], exact=exact)
                kept = part[..., _kept(row, scale), _kept(column, scale)]
                rows = slice(row.keep_start * scale, row.keep_stop * scale)
                result[..., rows, column.keep_start * scale : column.keep_stop * scale] = kept
        return result


def _overflowed(model: Model, image: Tensor, result: Tensor) -> bool:
    """Half precision can overflow to NaN, or to black where the source is not."""
    if model.dtype is torch.float32:
        return False
    return bool(~torch.isfinite(result).all() | ((result.amax() < _BLACK) & (image.amax() > 8 * _BLACK)))


def _smallest_side(model: Model) -> int:
    return 2 * model.facts.halo + 6 * model.facts.blend + _SMALLEST_KEPT


def _kept(span: Span, scale: int) -> slice:
    return slice((span.keep_start - span.start) * scale, (span.keep_stop - span.start) * scale)


def _pad(samples: Samples, multiple: int) -> Samples:
    """Mirror the last rows and columns, as RealESRGANer does, until both sides are multiples."""
    bottom, right = -samples.shape[0] % multiple, -samples.shape[1] % multiple
    if not bottom and not right:
        return samples
    mirrored = min(samples.shape[:2]) > max(bottom, right)  # there is enough to mirror
    padded: Samples = np.pad(samples, ((0, bottom), (0, right), (0, 0)), "reflect" if mirrored else "edge")  # type: ignore[assignment]
    return padded


def _to_tensor(tiles: list[Samples], device: torch.device) -> Tensor:
    """Equal tiles → (N, 3, H, W) float32 in [0, 1]."""
    stacked = np.stack(tiles)
    top = 255 if stacked.dtype == np.uint8 else 65535
    # torch has no arithmetic on uint16, and int32 holds it.
    tensor = torch.from_numpy(stacked if stacked.dtype == np.uint8 else stacked.astype(np.int32))
    return tensor.to(device).permute(0, 3, 1, 2).float().div_(top)
