"""Copies tiles between host and device.

On CUDA each direction has its own stream, so that the next tiles and the last results are copied while the network
runs. The host's memory is pinned; torch keeps it and uses it again. On the CPU nothing is copied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Landing:
    """A tensor that is being copied to the host."""

    _tensor: Tensor
    _arrived: torch.cuda.Event | None = None
    _place: tuple[int, tuple[int, ...], torch.dtype] | None = None
    """Where it lies in `_tensor`, which holds the bytes of a batch: first byte, shape and type."""

    def take(self) -> NDArray[Any]:
        """Wait until it has arrived. It may be a view: on the CPU of the given tensor."""
        if self._arrived is not None:
            self._arrived.synchronize()
        if self._place is None:
            return np.asarray(self._tensor)
        first, shape, dtype = self._place
        size = dtype.itemsize * math.prod(shape)
        return np.asarray(self._tensor[first : first + size].view(dtype).view(shape))


class Transfer:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]

    # --- for jobs, in their own threads -----------------------------------------------------------------------------

    def stage(self, samples: NDArray[Any]) -> Tensor:
        """A copy in memory that the device can read; uint16 as int16 of the same bits, because torch has no arithmetic
        on uint16."""
        bits = samples.view(np.int16) if samples.dtype == np.uint16 else samples
        tensor = torch.from_numpy(np.array(bits, order="C"))
        return tensor.pin_memory() if self._cuda else tensor

    # --- for the device's thread ------------------------------------------------------------------------------------

    def up(self, staged: Sequence[Tensor], batch: int) -> Tensor:
        """Tensors of equal shape → one batch of `batch` on the device; the last one is repeated where there are
        fewer."""
        if self._up is None:
            return staged[0][None] if batch == 1 else torch.stack([*staged, *[staged[-1]] * (batch - len(staged))])
        with torch.cuda.stream(self._up):
            parts = [each.to(self._device, non_blocking=True) for each in staged]
        compute = torch.cuda.current_stream(self._device)
        compute.wait_stream(self._up)
        for part in parts:
            part.record_stream(compute)
        return torch.stack([*parts, *[parts[-1]] * (batch - len(parts))])

    def down(self, tensors: Sequence[Tensor]) -> list[Landing]:
        """One copy for all. On CUDA what is copied is new memory, so the given tensors, which may be those of a graph,
        can be overwritten by what this thread launches next."""
        if self._down is None:
            return [Landing(each) for each in tensors]
        # The largest types first: so each begins at a multiple of the size of its samples.
        order = sorted(range(len(tensors)), key=lambda index: -tensors[index].dtype.itemsize)
        packed = torch.cat([tensors[index].reshape(-1).view(torch.uint8) for index in order])
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            host.copy_(packed, non_blocking=True)
            # A thread that waits for it sleeps.
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrived.record()
        packed.record_stream(self._down)
        first = dict(zip(order, accumulate((tensors[index].nbytes for index in order), initial=0), strict=False))
        return [
            Landing(host, arrived, (first[index], tuple(each.shape), each.dtype)) for index, each in enumerate(tensors)
        ]
