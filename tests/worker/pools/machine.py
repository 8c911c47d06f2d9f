"""What the tests of all pools use: workers of one machine, and a picture of many tiles."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.config import Config
from server.engine.backends.base import OnTile, Tile
from server.engine.spread import Helper
from server.job.job import Job, Params
from server.models.base import Model
from server.weights.catalog import Catalog
from server.weights.choice import FIDELITY
from server.worker.pools import open_pool
from server.worker.upscaler import Upscaler

JOB = Job(dialect="native", owner="local", params=Params(scale=4))
SAMPLES = np.random.default_rng(1).integers(0, 256, (230, 170, 3), np.uint8)
TILE = 104
"""The smallest for this network, so that there are many."""

MANY = 20


class Machine:
    """One data folder, and two workers' engines and pools; in one process, but they know each other by sockets only."""

    def __init__(self, folder: Path, ray_address: str | None = None) -> None:
        self.config = Config(data_dir=folder, ray_address=ray_address)
        self.upscalers = [Upscaler(self.config, Catalog.of(self.config)) for _ in range(2)]
        self.pools = [open_pool(self.config, each) for each in self.upscalers]
        self.model = self.model_of(self.upscalers[0])
        self.spool = folder / "spool"
        self.spool.mkdir(parents=True)

    def model_of(self, upscaler: Upscaler) -> Model:
        loaded = upscaler.load(Params(scale=4.0, model=FIDELITY))
        assert loaded is not None and loaded.model is not None
        return loaded.model

    def alone(self) -> NDArray[Any]:
        return np.concatenate(list(self.upscalers[0]._engine.upscale(self.model, SAMPLES, dtype=np.uint16, tile=TILE)))

    def together(self, on_tile: OnTile = None) -> NDArray[Any]:
        """By the first worker, and those that it finds."""
        helpers, engine = self.pools[0].helpers(JOB, self.spool), self.upscalers[0]._engine
        bands = engine.upscale(self.model, SAMPLES, dtype=np.uint16, tile=TILE, on_tile=on_tile, helpers=helpers)
        return np.concatenate(list(bands))

    @contextmanager
    def helpers(self) -> Iterator[Sequence[Helper]]:
        """Those of the first worker."""
        found = self.pools[0].helpers(JOB, self.spool).find(self.model, MANY)
        try:
            yield found
        finally:
            for each in found:
                each.close()

    def found(self) -> int:
        with self.helpers() as found:
            return len(found)

    def wait_for(self, helpers: int, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while self.found() != helpers:
            assert time.monotonic() < deadline, f"there are {self.found()} helpers, not {helpers}"
            time.sleep(0.1)

    def tile(self, model: Model | None = None) -> Tile:
        """One that is no square, of which a part is kept."""
        return Tile(model or self.model, SAMPLES[:TILE, :96], slice(0, 300), slice(16, 300), np.dtype(np.uint16))
