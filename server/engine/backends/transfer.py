"""Tiles on their way between host and device.

On CUDA both ways have a stream of their own, so that the next tiles come and the last results go while the network
runs; the host's side is pinned memory, which torch keeps and uses again. On the CPU nothing moves.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_UNDER_WAY = 2
"""Batches that a GPU has before it at most: one to run, one to follow without a gap. More would only be in the way of
the next job."""


@dataclass(frozen=True)
class Landing:
    """A tensor that is coming to the host."""

    _tensor: Tensor
    _arrived: torch.cuda.Event | None = None

    def take(self) -> NDArray[Any]:
        """Wait until it is there. On the CPU it may be a view of what the device gave."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return np.asarray(self._tensor)


class Transfer:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._down = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._busy_s = 0.0
        self._since: float | None = None
        self._lock = threading.Lock()

    # --- for jobs, in their own threads -----------------------------------------------------------------------------

    def stage(self, samples: NDArray[Any]) -> Tensor:
        """A copy of uint8 or uint16 samples from where the device can take them; uint16 as int16 of the same bits,
        because torch has no arithmetic on uint16."""
        bits = samples if samples.dtype == np.uint8 else samples.view(np.int16)
        tensor = torch.from_numpy(np.array(bits, order="C"))
        return tensor.pin_memory() if self._cuda else tensor

    @property
    def busy_s(self) -> float:
        """Seconds in which the device had work. On CUDA as its own clock counts them, a batch or two late."""
        with self._lock:
            return self._busy_s + (time.perf_counter() - self._since if self._since is not None else 0.0)

    # --- for the device's thread ------------------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around all that is done for a batch: counts the time, and lets no more than _UNDER_WAY of them pile up."""
        if not self._cuda:
            started = time.perf_counter()
            with self._lock:
                self._since = started
            try:
                yield
            finally:
                with self._lock:
                    self._busy_s += time.perf_counter() - started
                    self._since = None
            return
        with torch.cuda.device(self._device):  # a thread begins on cuda:0
            while len(self._under_way) >= _UNDER_WAY:
                begun, ended = self._under_way.popleft()
                ended.synchronize()
                with self._lock:
                    self._busy_s += begun.elapsed_time(ended) / 1000
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begun.record()
            yield
            ended.record()
            self._under_way.append((begun, ended))

    def up(self, staged: Sequence[Tensor], batch: int) -> Tensor:
        """Equal tensors → one of `batch` of them on the device, the last one repeated where there are fewer."""
        if self._up is None:
            return staged[0][None] if batch == 1 else torch.stack([*staged, *[staged[-1]] * (batch - len(staged))])
        with torch.cuda.stream(self._up):
            parts = [each.to(self._device, non_blocking=True) for each in staged]
        compute = torch.cuda.current_stream(self._device)
        compute.wait_stream(self._up)
        for part in parts:
            part.record_stream(compute)
        return torch.stack([*parts, *[parts[-1]] * (batch - len(parts))])

    def down(self, tensor: Tensor) -> Landing:
        if self._down is None:
            return Landing(tensor)
        tensor = tensor.contiguous()
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        tensor.record_stream(self._down)
        return Landing(host, arrived)
