"""CUDA graphs: the hundreds of launches of a network are recorded once and then started as one.

For a small tile, launching takes nearly all of the time on a GPU. Recording computes nothing and takes as long as
launching once, so it is done when a shape has been used a few times and there is ample memory. After one failure no
graph is recorded or used any more in this process: torch may have left the recording open (pytorch#180395), and its
pool leaks (pytorch#190308). NOTE: the tests have no GPU, but a stand-in; benchmarks/gpu.py tests this file on one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from torch import Tensor

from server.engine.cuda import breaks_device, probe

log = structlog.get_logger()

_USES_BEFORE = 3
"""Runs of a shape without a graph before it is recorded. A shape that is used once or twice is not worth it, and
cuDNN's plans and workspaces must exist when it is recorded."""
_MOST = 16
_ROOM = 2
"""Free memory that a recording needs, in what the network takes without one."""
_LEAST_TORCH = (2, 12)
"""Older ones leave a failed recording open (pytorch#180395)."""
_MOST_PIXELS = 1 << 18
"""Larger batches take longer to compute than to launch: nothing is gained, and each graph keeps its tensors."""


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    image: Tensor
    result: Tensor
    function: Callable[[Tensor], Tensor]
    """NOTE: keeps the weights alive: a recording has only their addresses."""


class Graphs:
    """For the device's thread."""

    def __init__(self, device: torch.device) -> None:
        self._enabled = device.type == "cuda" and _version(torch.__version__) >= _LEAST_TORCH
        self._device = device
        self._uses: Counter[Hashable] = Counter()
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._needs: dict[Hashable, int] = {}
        """Bytes that a shape took when it last ran without a graph."""
        self._place: tuple[Any, torch.cuda.Stream] | None = None
        """The memory pool and the stream of all recordings. Replays come one after the other, and each result is used
        before the next, so they can share memory."""
        self._peak = 0

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, network: Hashable, function: Callable[[Tensor], Tensor], image: Tensor, pixels: int) -> Tensor:
        """`function(image)`. The next call may overwrite the result: work on it must be launched before, on the same
        stream. `network`: equal for the same function. `pixels`: of the batch."""
        key = (network, tuple(image.shape), image.dtype)
        if not self._enabled or pixels > _MOST_PIXELS:
            return function(image)
        recorded = self._recorded.get(key)
        if recorded is None:
            self._uses[key] += 1
            if self._uses[key] <= _USES_BEFORE:
                return self._measured(key, function, image)
            recorded = self._record(key, function, image)
            if recorded is None:
                return function(image)
        self._recorded.move_to_end(key)
        recorded.image.copy_(image)
        recorded.graph.replay()
        return recorded.result

    def clear(self) -> None:
        """Drop all recordings and free their memory."""
        self._recorded.clear()
        self._uses.clear()
        self._place = None

    def forget(self, network: Hashable) -> None:
        """The network is no longer kept: drop its recordings."""
        for key in [key for key in self._recorded if isinstance(key, tuple) and key[0] == network]:
            del self._recorded[key]
        for key in [key for key in self._uses if isinstance(key, tuple) and key[0] == network]:
            del self._uses[key]

    def peaks(self) -> dict[str, float]:
        """`device_memory_peak_bytes` before it was last measured anew; empty if it never was."""
        return {"device_memory_peak_bytes": self._peak} if self._peak else {}

    def _measured(self, key: Hashable, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        self._peak = max(self._peak, torch.cuda.max_memory_reserved(self._device))
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        result = function(image)
        self._needs[key] = torch.cuda.max_memory_allocated(self._device) - before
        return result

    def _has_room(self, key: Hashable) -> bool:
        """Memory that runs out while a graph is recorded can't be told from other failures, and leaks the pool."""
        return torch.cuda.mem_get_info(self._device)[0] > _ROOM * self._needs.get(key, 0)

    def _record(self, key: Hashable, function: Callable[[Tensor], Tensor], image: Tensor) -> _Recorded | None:
        if not self._has_room(key):
            return None
        while len(self._recorded) >= _MOST:
            self._recorded.popitem(last=False)
        try:
            if self._place is None:
                stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                self._place = torch.cuda.graph_pool_handle(), stream
            pool, stream = self._place
            static = image.clone()
            graph = torch.cuda.CUDAGraph()
            # Job threads may allocate meanwhile (faces, the refiner): check only this thread's calls.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                result = function(static)
        except Exception as error:
            if breaks_device(error) and not probe(self._device):
                raise
            log.warning("no more CUDA graphs in this process", shape=tuple(image.shape), reason=str(error))
            self._enabled = False
            self.clear()
            return None
        self._recorded[key] = _Recorded(graph, static, result, function)
        return self._recorded[key]


def _version(text: str) -> tuple[int, int]:
    """Major and minor version: (2, 15) of "2.15.0+cu132"."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
