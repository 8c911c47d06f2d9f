"""Networks on our own kernels for GPUs (`server/kernels/cuda/network.py`).

The same tile gives the same bytes in any batch, so batches are not filled up. What must be computed in fp32 is left to
torch. NOTE: it has never run on a GPU; it runs where the operator asks for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from server.engine.backends.base import Tile
from server.engine.backends.eager import Eager
from server.engine.backends.graphs import Graphs
from server.engine.device import is_out_of_memory
from server.models.base import Model

log = structlog.get_logger()

_TYPES = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.int16,
    np.dtype(np.float32): torch.float32,
}


class Fused:
    filled = False
    most = 16

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._eager = Eager(graphs)

    def runs(self, model: Model) -> bool:
        return model.fused is not None

    def compute(self, tiles: Sequence[Tile], samples: Tensor) -> tuple[list[Tensor], Tensor | None]:
        network = tiles[0].model.fused
        if tiles[0].exact or network is None:
            return self._eager.compute(tiles, samples)
        n, height, width, _ = samples.shape
        try:
            features = self._graphs.run(id(tiles[0].model), network, samples, n * height * width)
            seen = torch.zeros(n, 3, dtype=torch.int32, device=samples.device)
            kept = [
                network.finish(features, samples, index, tile.rows, tile.columns, _TYPES[tile.dtype], seen)
                for index, tile in enumerate(tiles)
            ]
        except Exception as error:
            if isinstance(error, RuntimeError) or is_out_of_memory(error):
                raise
            raise RuntimeError(f"Triton can't compile or start a kernel: {error}") from error
        return kept, network.overflowed(seen)


def problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why these kernels can't be used, in words; None if they can."""
    if device.type != "cuda":
        return "they need a GPU"
    if dtype is not torch.float16:
        return "they multiply in fp16, and UPSCALE_DTYPE asks for another precision"
    try:
        from server.kernels.cuda.network import LEAST_CAPABILITY
    except ImportError as error:
        return f"Triton is not installed: {error}"
    found = torch.cuda.get_device_capability(device)
    if found < LEAST_CAPABILITY:
        return "they need compute capability {}.{}, this GPU has {}.{}".format(*LEAST_CAPABILITY, *found)
    return None


def log_compilations() -> None:
    """Say in the log when Triton compiles a kernel: pictures wait for it, once."""
    from triton import knobs

    knobs.compilation.listener = _heard


def _heard(*, src: Any, times: Any, cache_hit: bool, **_: Any) -> None:
    if not cache_hit:
        log.info("compiled a GPU kernel", kernel=src.name, seconds=round(times.total / 1e6, 1))
