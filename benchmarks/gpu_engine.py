"""The step `engine` of benchmarks/gpu_first.py: the server's own engine, with every way to run networks that is here.

It needs the server's packages. For each way: whether a job gives the same bytes alone and beside three others; 200
thumbnails, one at a time and four at a time; the share of the time in which the device has work while thumbnails come
beside a large picture; and what a shape costs that was not seen before, run by run, until its graph is recorded.
"""

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu import make_networks, picture
from server.engine import device as devices
from server.engine.backends.fused import problem as fused_problem
from server.engine.engine import Engine
from server.models.base import Model

Samples = NDArray[np.uint8]


@dataclass(frozen=True)
class Sizes:
    """Width and height of pictures, in pixels."""

    beside: tuple[int, int]
    tile: int
    """Of those beside others: each picture has several."""
    thumbnails: tuple[tuple[int, int], ...]
    count: int
    large: tuple[int, int]
    new: tuple[int, int]
    """A shape that no other part has."""
    runs: int


FULL = Sizes((300, 260), 96, ((64, 64), (96, 64), (128, 128), (160, 120)), 200, (1920, 1080), (200, 136), 8)
TINY = Sizes((60, 40), 96, ((12, 8), (16, 12)), 4, (40, 30), (20, 14), 3)


class _Way:
    """One network, run in one way."""

    def __init__(self, path: Path, device: torch.device, fused: bool) -> None:
        self._path, self._device, self._fused = path, device, fused
        self.dtype = devices.pick_dtype("auto", device)
        self.engine, self.model = self.made()

    def made(self) -> tuple[Engine, Model]:
        engine = Engine(self._device, dtype=self.dtype, fused=self._fused)
        return engine, engine.load([(self._path, 1.0)], name=self._path.stem, sha256=None)

    def run(self, samples: Samples, tile: int = 0) -> str:
        """The digest of the result, whose bands are dropped as they come."""
        digest = hashlib.sha256()
        for band in self.engine.upscale(self.model, samples, dtype=np.uint8, tile=tile):
            digest.update(band.tobytes())
        return digest.hexdigest()

    def counted(self, work: Callable[[], object]) -> dict[str, float]:
        """Seconds of `work`, tiles per batch, and the share of the time in which the device had work."""
        before, started = self.engine.counters(), time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        after = self.engine.counters()
        batches, tiles = (after[name] - before[name] for name in ("batches", "tiles"))
        busy = (after["busy_seconds"] - before["busy_seconds"]) / seconds
        return {"s": round(seconds, 3), "tiles_per_batch": round(tiles / batches, 2), "busy": round(busy, 3)}


def same_bytes(way: _Way, sizes: Sizes) -> dict[str, Any]:
    """Alone, and beside three others on an engine that is new, so that others come first to its graphs."""
    whole = picture(*sizes.beside)
    parts = [np.ascontiguousarray(np.roll(whole, 13 * number, 0)) for number in range(4)]
    alone = [way.run(each, sizes.tile) for each in parts]
    way.engine, way.model = way.made()
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda each: way.run(each, sizes.tile), parts))
    counted = way.engine.counters()
    return {"same": alone == beside, "tiles_per_batch": round(counted["tiles"] / counted["batches"], 2)}


def thumbnails(way: _Way, sizes: Sizes) -> dict[str, Any]:
    pictures = [picture(*each) for each in sizes.thumbnails]
    jobs = [pictures[number % len(pictures)] for number in range(sizes.count)]
    for each in pictures:
        way.run(each)

    def at_a_time(threads: int) -> dict[str, float]:
        def work() -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(way.run, jobs))

        facts = way.counted(work)
        return facts | {"pictures_a_second": round(len(jobs) / facts["s"], 1)}

    return {"one at a time": at_a_time(1), "four at a time": at_a_time(4)}


def mix(way: _Way, sizes: Sizes) -> dict[str, Any]:
    """Thumbnails one after the other, while a large picture is computed."""
    large, small = picture(*sizes.large), picture(*sizes.thumbnails[0])
    waited: list[float] = []

    def work() -> None:
        job = threading.Thread(target=way.run, args=(large,))
        job.start()
        while job.is_alive():
            started = time.perf_counter()
            way.run(small)
            waited.append(time.perf_counter() - started)
        job.join()

    way.run(large)
    facts = way.counted(work)
    return facts | {"thumbnails": len(waited), "thumbnail_ms": round(1000 * float(np.median(waited)), 1)}


def new_shape(way: _Way, sizes: Sizes) -> dict[str, Any]:
    """Milliseconds of each run of a shape that is new: the first makes cuDNN's plans, or compiles kernels; a later one
    records the graph; the last ones are what it takes from then on."""
    samples, taken = picture(*sizes.new), []
    graphs = [way.engine.counters()["graphs"]]
    for _ in range(sizes.runs):
        started = time.perf_counter()
        way.run(samples)
        taken.append(round((time.perf_counter() - started) * 1000, 2))
        graphs.append(way.engine.counters()["graphs"])
    recorded = next((number for number in range(sizes.runs) if graphs[number + 1] > graphs[number]), None)
    usual = min(taken)
    return {
        "ms": taken,
        "first_ms": round(taken[0] - usual, 2),
        "capture_ms": None if recorded is None else round(taken[recorded] - usual, 2),
    }


PARTS: dict[str, Callable[[_Way, Sizes], dict[str, Any]]] = {
    "same bytes": same_bytes,
    "new shape": new_shape,
    "thumbnails": thumbnails,
    "mix": mix,
}


def measure(most_s: float) -> dict[str, Any]:
    """The figures by network, way and part. After `most_s` seconds no further part is started."""
    until = time.monotonic() + most_s
    device = devices.pick_device("auto")
    gpu = device.type == "cuda"
    sizes = FULL if gpu else TINY
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = make_networks(Path(folder), small=not gpu)
        problem = fused_problem(device, devices.pick_dtype("auto", device))
        for name, (_, path) in made.items():
            for label, fused in (("cuDNN" if gpu else "torch", False), ("Triton", True)):
                if fused and problem is not None:
                    facts[f"{name}, {label}"] = {"skipped": problem}
                    continue
                found = facts[f"{name}, {label}"] = {}
                way = _Way(path, device, fused)
                for part, run in PARTS.items():
                    late = time.monotonic() > until
                    found[part] = {"skipped": "no time left"} if late else run(way, sizes)
    return facts
