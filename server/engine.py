"""Runs networks over pictures in tiles: the loop that everything else is there to feed.

One engine per device. A picture goes in as HWC samples and comes out as finished bands of rows, top to bottom, so that
neither the device's memory nor the host's grows with it. What can go wrong on a device is handled here and nowhere
else: out of memory halves the batch, then the tile, and remembers; a result that is not finite, or black where the
source is not, is computed again in fp32.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.device import is_out_of_memory, release_memory
from server.errors import OutOfMemory
from server.files.picture import Samples
from server.models.base import Model
from server.plan import Shape, tile_size
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
        self,
        model: Model,
        samples: Samples,
        *,
        dtype: type[np.generic] = np.float32,
        tile: int = 0,
        on_tile: Callable[[], None] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Finished rows of the result, from top to bottom: H_band × W·scale × channels of `dtype`.

        `samples`: H × W × 3 RGB, or H × W × 1 grey, which goes through the network as three equal channels and comes
        back as their mean. `dtype`: uint8 or uint16, rounded and clamped, or float32 in about [0, 1]. `tile`: side in
        source pixels, 0 for the model's own. `on_tile` is called after each tile; it may raise, which ends the run.
        Where to cut is settled before the first band, so that two calls give bands of the same heights. Raises
        OutOfMemory.
        """
        facts = model.facts
        padded = _pad(samples, facts.multiple)
        h, w = padded.shape[:2]
        width, height = tile_size((w, h), self.shape(model, tile))
        rows = cut(h, height, facts.halo, facts.blend, facts.multiple)
        columns = cut(w, width, facts.halo, facts.blend, facts.multiple)
        result = samples.shape[0] * facts.scale, samples.shape[1] * facts.scale
        return self._bands(model, padded, rows, columns, result, np.dtype(dtype), on_tile)

    def shape(self, model: Model, tile: int = 0) -> Shape:
        """What a plan has to know: with the side of the tiles that `upscale` will cut, which is what was asked for,
        within what fits and what makes sense."""
        facts = model.facts
        side = min(tile or facts.tile, self._tiles.get(model.name, 1 << 30))
        side = max(side, _smallest_side(model)) // facts.multiple * facts.multiple
        return Shape(model.name, facts.scale, side, facts.halo)

    def _bands(
        self,
        model: Model,
        samples: Samples,
        rows: list[Span],
        columns: list[Span],
        result: tuple[int, int],
        dtype: np.dtype[Any],
        on_tile: Callable[[], None] | None,
    ) -> Iterator[NDArray[Any]]:
        scale, blend = model.facts.scale, model.facts.blend
        carry: Floats | None = None  # rows that the next row of tiles still adds to
        shared = 2 * blend * scale
        for index, row in enumerate(rows):
            # Only where neighbours are mixed must a band be in floats, which is four times the memory.
            band = self._row(model, samples, row, columns, np.dtype(np.float32) if blend else dtype, on_tile)
            top = row.keep_start * scale
            if blend:
                band *= weights(rows, index, scale, blend)[:, None, None]
                if carry is not None:
                    band[: len(carry)] += carry
                if index < len(rows) - 1:
                    band, carry = band[:-shared], band[-shared:].copy()
            yield _rounded(band[: result[0] - top, : result[1]], dtype)

    def _row(
        self,
        model: Model,
        samples: Samples,
        row: Span,
        columns: list[Span],
        dtype: np.dtype[Any],
        on_tile: Callable[[], None] | None,
    ) -> NDArray[Any]:
        """One row of tiles, joined side by side."""
        scale, blend = model.facts.scale, model.facts.blend
        height = (row.keep_stop - row.keep_start) * scale
        make = np.zeros if blend else np.empty
        band: NDArray[Any] = make((height, samples.shape[1] * scale, samples.shape[2]), dtype)
        first = 0
        while first < len(columns):
            batch = columns[first : first + self._batch]  # _run may make the batch smaller for those that follow
            tiles = [samples[row.start : row.stop, column.start : column.stop] for column in batch]
            results = self._run(model, _to_tensor(tiles, self.device))
            for i, column in enumerate(batch):
                kept = results[i, :, _kept(row, scale), _kept(column, scale)]
                if samples.shape[2] == 1:
                    kept = kept.mean(dim=0, keepdim=True)
                target = band[:, column.keep_start * scale : column.keep_stop * scale]
                pixels = _to_samples(kept, dtype)
                if blend:
                    target += pixels * weights(columns, first + i, scale, blend)[None, :, None]
                else:
                    target[:] = pixels
                if on_tile is not None:
                    on_tile()
            del results, kept, pixels  # or the next tiles would be computed beside them
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
    """Equal tiles of one or three channels → (N, 3, H, W) float32 in [0, 1]."""
    stacked = np.stack(tiles)
    top = 255 if stacked.dtype == np.uint8 else 65535
    # torch has no arithmetic on uint16, and int32 holds it.
    tensor = torch.from_numpy(stacked if stacked.dtype == np.uint8 else stacked.astype(np.int32))
    return tensor.to(device).permute(0, 3, 1, 2).float().div_(top).expand(-1, 3, -1, -1)


@torch.inference_mode()  # else what the network gives can't be changed in place
def _to_samples(image: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(C, H, W) float32 → H × W × C of `dtype`; `image` is not needed after it. Integers are made on the device: a
    fourth of the bytes to copy."""
    image = image.permute(1, 2, 0)
    if dtype.kind == "u":
        top = 255 if dtype == np.uint8 else 65535
        image = image.mul_(top).round_().clamp_(0, top).to(torch.uint8 if dtype == np.uint8 else torch.int32)
    return np.asarray(image.cpu())


def _rounded(band: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A blended band in the type that was asked for; `band` is not needed after it."""
    if band.dtype == dtype:
        return band
    top = np.iinfo(dtype).max
    np.multiply(band, top, out=band)
    np.rint(band, out=band)
    np.clip(band, 0, top, out=band)
    return band.astype(dtype)
