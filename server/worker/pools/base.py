"""What a pool offers, and what its processes say to each other: a tile to compute, and its result.

A request and its answer carry the same fence: the job, its attempt, the picture and the number of the tile. An answer
with another fence, such as a late one to an earlier attempt, is not used.
"""

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engine.spread import Helpers
from server.errors import UpscaleError
from server.job.job import Job

if TYPE_CHECKING:  # a process that only passes tiles on does not need torch
    from server.engine.backends.base import Tile
    from server.worker.upscaler import Upscaler

LEAST_TILES = 4
"""Of a picture with fewer, this process computes all."""


class Pool(Protocol):
    """One module of this folder has a class of this shape. Each worker process has one."""

    def serving(self, is_idle: Callable[[], bool]) -> AbstractContextManager[None]:
        """Meanwhile this process helps others while `is_idle`."""

    def helpers(self, job: Job, folder: Path) -> Helpers:
        """Who helps with this job, and where results that come before their turn are kept."""


class CannotHelp(Exception):
    """This process does not compute this tile; the message says why."""


@dataclass(frozen=True)
class Fence:
    job: str
    attempt: int
    tile: int
    picture: str = field(default_factory=lambda: secrets.token_hex(8))
    """One plane of one picture through one network: a job has several."""


@dataclass(frozen=True)
class Request:
    """A tile, but for its samples."""

    fence: dict[str, Any]
    network: str
    sha256: str
    shape: tuple[int, ...]
    samples: str
    """Their type, as numpy names it."""
    rows: tuple[int, int]
    columns: tuple[int, int]
    result: str
    """Type of the result."""
    exact: bool
    native: bool
    """The network runs on our own CPU kernels, which may still be compiled in one of the processes."""

    @classmethod
    def of(cls, fence: Fence, tile: "Tile") -> "Request":
        assert tile.model.sha256 is not None
        rows, columns = (tile.rows.start, tile.rows.stop), (tile.columns.start, tile.columns.stop)
        shape, kind = tile.samples.shape, tile.samples.dtype.str
        name, sha256 = tile.model.name, tile.model.sha256
        result, native = tile.dtype.str, tile.model.native is not None
        return cls(asdict(fence), name, sha256, shape, kind, rows, columns, result, tile.exact, native)

    @property
    def result_shape(self) -> tuple[int, int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0], self.shape[2]


Answer = tuple[dict[str, Any], NDArray[Any]]
"""The fence of the request, and the kept part of the tile's result."""


def compute(upscaler: "Upscaler", request: Request, samples: bytearray) -> Answer:
    """In the process whose engine computes. Raises CannotHelp."""
    from server.engine.backends.base import Tile

    try:
        model = upscaler.same_network(request.network, request.sha256)
    except UpscaleError as error:
        raise CannotHelp(error.message) from error
    if (model.native is not None) != request.native:
        raise CannotHelp("it runs the network on other kernels")
    array = np.frombuffer(samples, np.dtype(request.samples)).reshape(request.shape)
    tile = Tile(model, array, slice(*request.rows), slice(*request.columns), np.dtype(request.result), request.exact)
    result = upscaler.tile(tile)
    if result is None:
        raise CannotHelp("the tile does not fit into memory")
    return request.fence, result
