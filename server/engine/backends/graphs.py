"""CUDA graphs: the hundreds of launches of a network are recorded once and then started as one.

For a small tile, launching takes nearly all of the time on a GPU. Recording computes nothing and takes as long as
launching once, so it is done when a shape has been used a few times. Before that, and after any failure with a shape,
the network runs without a graph. NOTE: the tests have no GPU; benchmarks/gpu.py tests this file on one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

log = structlog.get_logger()

_USES_BEFORE = 3
"""Runs of a shape without a graph before it is recorded. A shape that is used once or twice is not worth it, and
cuDNN's plans and workspaces must exist when it is recorded."""
_MOST = 16
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

    def __init__(self, device: torch.device, *, enabled: bool | None = None) -> None:
        self._enabled = device.type == "cuda" if enabled is None else enabled
        self._device = device
        self._uses: Counter[Hashable] = Counter()
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._refused: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, network: Hashable, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """`function(image)`. The next call may overwrite the result: work on it must be launched before, on the same
        stream. `network`: equal for the same function."""
        key = (network, tuple(image.shape))
        n, _, h, w = image.shape
        if not self._enabled or key in self._refused or n * h * w > _MOST_PIXELS:
            return function(image)
        recorded = self._recorded.get(key)
        if recorded is None:
            self._uses[key] += 1
            if self._uses[key] <= _USES_BEFORE:
                return function(image)
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

    def forget(self, network: Hashable) -> None:
        """The network is no longer kept: drop its recordings."""
        for key in [key for key in self._recorded if isinstance(key, tuple) and key[0] == network]:
            del self._recorded[key]

    def _record(self, key: Hashable, function: Callable[[Tensor], Tensor], image: Tensor) -> _Recorded | None:
        while len(self._recorded) >= _MOST:
            self._recorded.popitem(last=False)
        try:
            static = image.clone()
            graph = torch.cuda.CUDAGraph()
            # Job threads may allocate meanwhile (faces, the refiner): check only this thread's calls.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                result = function(static)
        except Exception as error:
            log.warning("no CUDA graph for this shape", shape=tuple(image.shape), reason=str(error))
            self._refused.add(key)
            return None
        self._recorded[key] = _Recorded(graph, static, result, function)
        return self._recorded[key]
