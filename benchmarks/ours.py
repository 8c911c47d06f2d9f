"""Runs pictures through the server's own code like jobs, but without files and requests."""

import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from server.config import Config
from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.job.job import Params
from server.weights.catalog import Catalog, verify
from server.weights.choice import FIDELITY, LARGE_X4
from server.weights.rates import REFINER
from server.worker.upscaler import Upscaler
from training.dataset import SCALE, Pixels


class Ours:
    """`weights`: the folder of installed checkpoints. Estimated times do not influence the choice of the network."""

    def __init__(self, device: str = "auto", weights: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="upscale-benchmark-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        config = Config(device=device, data_dir=self._folder, weights_dir=weights, auto_limit_s=1e9)
        self.catalog = Catalog.of(config)
        self._upscaler = Upscaler(config, self.catalog, allow_paths=True)
        # No choice depends on time here, so speeds need not be measured.
        self._upscaler._rates = dict.fromkeys((FIDELITY, LARGE_X4, REFINER), 1e12)
        self._engine = Engine(self._upscaler.device)
        self.device = self._upscaler.describe()

    def __call__(self, pixels: Pixels, **params: Any) -> Pixels:
        return self.timed(pixels, **params)[0]

    def timed(self, pixels: Pixels, **params: Any) -> tuple[Pixels, dict[str, float]]:
        """The result and the seconds of each step."""
        target = self._folder / "result"
        data: bytes = pyvips.Image.new_from_array(pixels).pngsave_buffer(compression=1)
        wanted = Params(**(params if "target" in params else {"scale": float(SCALE)} | params))
        ctx = self._upscaler.run(self._upscaler.prepare(wanted, data, target))
        image = pyvips.Image.new_from_file(str(target))
        result: Pixels = image.numpy()[..., :3]
        return result, ctx.seconds

    def model(self, name: str) -> str:
        """The value for `model`: the name, or the file itself if it is another form of the weights than the manifest's,
        which jobs refuse."""
        checkpoint = self.catalog.get(name)
        try:
            verify(checkpoint)
        except ModelNotFound:
            return str(checkpoint.path)
        return name

    def bare(self, pixels: Pixels, model: str) -> Pixels:
        """The network's result alone, without corrections of colour."""
        loaded = self._upscaler.load(Params(scale=float(SCALE), model=model)).model
        return np.concatenate(list(self._engine.upscale(loaded, pixels, dtype=np.uint8)))

    @property
    def grid_of_refiner(self) -> Any:
        return self._upscaler.load_refiner().grid

    def with_tiles_of(self, side: int) -> None:
        refiner: Any = self._upscaler.load_refiner()
        refiner.grid = replace(refiner.grid, tile=side)
