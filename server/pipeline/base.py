"""What a step reads and writes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pyvips

from server.engine import Engine
from server.errors import ModelNotFound
from server.faces import FaceRestorer, Outcome
from server.files.metadata import Metadata
from server.files.picture import Samples
from server.formats import FORMATS
from server.job import Params
from server.models.base import Model
from server.plan import Plan
from server.stream import Stream

_T = TypeVar("_T")


def _nothing() -> None:
    pass


def _no_faces() -> FaceRestorer:
    raise ModelNotFound("faces can't be restored here: no weights for them were given")


def _as_it_is(image: pyvips.Image) -> pyvips.Image:
    return image


@dataclass
class Context:
    """One run of the pipeline: what is wanted, what is at hand, and the picture on its way.

    From `upscale` on the picture is a stream: steps say what shall happen to its bands, and nothing happens until
    `encode` takes them.
    """

    params: Params
    data: bytes
    """The encoded source."""
    target: Path
    """The file that the encoded result goes to. A run that failed may leave a part of it: its caller removes that."""
    engine: Engine
    load: Callable[[Params, float], Model]
    """The network for these parameters and this enlargement, from the process's cache."""
    max_source_pixels: int
    max_result_pixels: int
    tile: int = 0
    """Tile side in source pixels; 0 is the model's own."""
    load_faces: Callable[[], FaceRestorer] = _no_faces
    """The networks for faces, likewise. Raises ModelNotFound where there are none."""
    check: Callable[[], None] = _nothing
    """Called between steps and after every tile. Raises when the job must stop: cancelled, or no longer ours."""

    samples: Samples = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    """The source, orientation applied, alpha last. Empty before decode."""
    deep: bool = False
    """The source has more than 8 bits per sample; filled by decode."""
    metadata: Metadata = field(default_factory=Metadata)
    """What the source's file says beside its pixels, and the profile that the samples are in; filled by decode."""
    model: Model | None = None
    """Filled by plan when a network runs, else None."""
    plan: Plan | None = None
    """Filled by plan."""
    tiles_done: int = 0
    tiles: int = 0
    """Tiles done and tiles in all, over all passes and planes: progress. Filled by upscale."""
    stream: Stream | None = None
    """The enlarged picture, band by band; filled by upscale. It may be 16-bit although the result is not, so that
    nothing is rounded twice."""
    faces: Sequence[Outcome] | None = None
    """What became of each face of the source, or None when they are nobody's concern; filled by faces."""
    finish: Callable[[pyvips.Image], pyvips.Image] = _as_it_is
    """What libvips does to the rows between the stream and the encoder; filled by resize."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by step: of each the time in which it, and no other, kept this run's thread."""
    _clocks: list[tuple[str, float]] = field(default_factory=list)

    @property
    def progress(self) -> float:
        """0 … 1. The network is nearly all of the work; what follows it has no measure."""
        return self.tiles_done / self.tiles if self.tiles else 0.0

    @property
    def result_is_deep(self) -> bool:
        """The result has more than 8 bits per sample."""
        wanted = self.params.depth
        return FORMATS[self.params.format].deep and (self.deep if wanted is None else wanted > 8)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the time within for the step of that name, and not for the one that is running around it."""
        now = time.perf_counter()
        if self._clocks:
            self._count(now)
        self._clocks.append((name, now))
        try:
            yield
        finally:
            now = time.perf_counter()
            self._count(now)
            self._clocks.pop()
            if self._clocks:
                self._clocks[-1] = (self._clocks[-1][0], now)

    def timed(self, name: str, items: Iterator[_T]) -> Iterator[_T]:
        """The same items, with the time that each takes to make counted for the step of that name."""
        while True:
            with self.clock(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def _count(self, now: float) -> None:
        name, since = self._clocks[-1]
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - since, 4)


class Step(Protocol):
    """One module of this folder. A step with nothing to do returns on its first line."""

    def run(self, ctx: Context) -> None: ...
