"""Runs networks that are no upscalers, in batches of one job: those for faces."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.engine.backends.transfer import Landing, Transfer
from server.engine.runtime import Limits, Runtime
from server.errors import OutOfMemory

log = structlog.get_logger()

_T = TypeVar("_T")


class Twice(Protocol):
    def __call__(self, function: Callable[[], _T], /) -> _T | None:
        """The result of `function`; None when memory ran out, and again after all that is not needed was freed."""


class Apply:
    """`Engine.apply`, for any thread."""

    def __init__(self, runtime: Runtime, twice: Twice) -> None:
        self._runtime, self._twice = runtime, twice
        self._transfer = Transfer(runtime.device)
        self._fits = Limits()

    def __call__(self, name: str, network: Callable[[Tensor], Tensor], rows: NDArray[Any]) -> NDArray[Any]:
        """`network(rows)`, as an array: only the network takes the device's turn, and this thread sleeps meanwhile.

        `rows`: N × …, of integers or floats; the network gets uint16 as int16 of the same bits, on the engine's device,
        and returns N × … for any N, row by row. When memory runs out, it gets half as many rows at a time, and so does
        the network of this `name` for some minutes; but for that, the same call gives the same bytes. Raises
        OutOfMemory when a single row does not fit.
        """
        done: list[NDArray[Any]] = []
        while len(rows):
            size = min(len(rows), self._fits.get(name))
            result = self._twice(functools.partial(self._there_and_back, network, rows[:size]))
            if result is not None:
                done.append(result)
                rows = rows[size:]
                continue
            if size == 1:
                raise OutOfMemory(f"not even one piece of {name} fits on {self._runtime.device}")
            self._runtime.count("batch_retries")
            if self._fits.lower(name, size // 2):
                log.warning("out of memory: halving the batch", model=name, batch=size // 2)
        return done[0] if len(done) == 1 else np.concatenate(done)

    def fetch(self, tensor: Tensor) -> NDArray[Any]:
        """`Engine.to_host`."""
        return self._transfer.down([tensor])[0].take()

    def _there_and_back(self, network: Callable[[Tensor], Tensor], rows: NDArray[Any]) -> NDArray[Any]:
        staged = self._transfer.stage(rows)

        @torch.inference_mode()
        def launched() -> Landing:
            return self._transfer.down([network(self._transfer.up([staged], 1)[0])])[0]

        return self._runtime.call(launched).take()
