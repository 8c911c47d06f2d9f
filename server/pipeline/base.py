"""What the steps of the pipeline read and write."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from server import __version__
from server.engine.engine import Engine
from server.engine.spread import Helpers
from server.errors import ModelNotFound
from server.images.metadata.metadata import Metadata
from server.images.metadata.provenance import Origin, source_type
from server.images.read.animation import Animation
from server.images.read.gain_map import GainMap
from server.images.read.open import Samples
from server.images.samples import full_scale
from server.images.write.animation import AnimationEncoder
from server.images.write.save import converts
from server.job.creativity import Recipe, recipe
from server.job.formats import FORMATS, Hdr
from server.job.job import Params
from server.job.mask import KEPT_STEP
from server.job.plan import Plan, Sizes
from server.job.tiling import Size
from server.models.base import Model
from server.refiners import Refiner
from server.rows.stream import Stream
from server.weights.catalog import Choice, Content

if TYPE_CHECKING:  # it loads OpenCV, which most jobs do not need
    from server.faces import FaceRestorer, Outcome
if TYPE_CHECKING:
    from server.pipeline.certificate import Certificate

_T = TypeVar("_T")

_SEED_BITS = 63
_UNFLUSHED = 0.98
"""An encoder has still to write its last rows when the networks have computed them."""
_STREAMS = ("resize", "mask", "grain", "encode")
"""Steps that work on rows as soon as they are there."""
_ROUNDING = 1e-6
"""Relative rounding error of a sum of a step's parts."""


def _nothing() -> None:
    pass


def _ignored(_: bool) -> None:
    pass


def _no_faces() -> "FaceRestorer":
    raise ModelNotFound("faces can't be restored here: no weights for them were given")


def _no_refiner() -> Refiner:
    raise ModelNotFound("pictures can't be refined here: no weights for that were given")


@dataclass(frozen=True)
class Loaded:
    """The networks of a job, ready to run."""

    name: str
    """All of them with their shares, as results name them."""
    sha256: str | None
    """Of the one network's file, or of the recipe."""
    form: str | None
    """Where the one network's numbers come from; None of several."""
    choice: Choice
    model: Model
    """The network that enlarges."""
    fidelity: Model | None
    """fidelity-x4, where its result is mixed in."""
    before: tuple[Model, ...] = ()
    """Networks of ×1 that run over the source first."""


Networks = tuple[Model, Model | None]
"""The one of a pass, and fidelity-x4 where its result is mixed in."""


class Load(Protocol):
    """The networks for a picture, from the process's cache: see Catalog.choose for the arguments and what it raises.
    None where none of them would run."""

    def __call__(
        self,
        params: Params,
        sizes: Sizes | None = None,
        *,
        planes: int = 1,
        content: Content = "photo",
    ) -> Loaded | None: ...


@dataclass
class Part:
    """A step's work on one picture, in multiplications, about. Shown as progress."""

    work: float
    done: float = 0.0
    current: float = 0.0
    """The part of the current tile that is done, where that is known."""
    taken: float = 0.0
    """Seconds of the step in `shared_seconds` when these were last written."""
    alone: float = 0.0
    """The work of one tile, where no other job computes one at the same time; else 0."""


@dataclass(frozen=True)
class Refinement:
    """How the diffusion pass was run."""

    recipe: dict[str, Any]
    """What the creativity meant, for all refiners."""
    refiner: str | None
    """The network's name, or None where no diffusion ran."""
    sha256: str | None
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Kept:
    """The second result, which a mask keeps a part of."""

    run: "Context"
    """Makes it."""
    shares: NDArray[np.uint8]
    """How much of it goes into each pixel of the source's size; see mask/shares.py."""


@dataclass
class Context:
    """One run of the pipeline: the parameters, the networks, and the picture that is processed.

    From `upscale` on the picture is a stream: steps define what happens to its bands, and nothing happens until
    `encode` reads them.
    """

    params: Params
    data: bytes
    """The encoded source."""
    target: Path
    """The file for the encoded result. A run that failed may leave a part of it, which the caller must remove."""
    engine: Engine
    load: Load
    """Loads the networks of a job, or takes them from the process's cache."""
    max_source_pixels: int
    max_result_pixels: int
    mask: bytes = b""
    """The encoded picture of the mask, where the parameters have one."""
    tile: int = 0
    """Side of the tiles in source pixels; 0: the engine decides."""
    labels: bool = True
    """The result states in XMP how it was made."""
    load_faces: "Callable[[], FaceRestorer]" = _no_faces
    """Likewise the networks for faces. Raises ModelNotFound where there are none."""
    load_refiner: Callable[[], Refiner] = _no_refiner
    """Likewise the diffusion network."""
    helpers: Helpers | None = None
    """Other processes that may compute some of the tiles."""
    check: Callable[[], None] = _nothing
    """Called between steps and after every tile. Raises when the job must stop: it was cancelled, or another worker has
    its lease."""

    samples: Samples = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    """The source, orientation applied, alpha last; of an animation, the current frame. Empty before decode."""
    deep: bool = False
    """The source has more than 8 bits per sample; filled by decode."""
    hdr: Hdr | None = None
    """How the source is HDR, None for the standard range; filled by decode."""
    gain_map: GainMap | None = None
    """The source's, where it is kept; filled by decode."""
    gain: Samples | None = None
    """Its samples, orientation applied."""
    animation: Animation | None = None
    """All frames, when they are asked for and there are several; filled by decode."""
    encoder: AnimationEncoder | None = None
    """Encodes the frames; filled when the first begins."""
    frame: int = 0
    """How many frames are done."""
    frames_made: int = 0
    """How many frames, with the current one, differ from the frame before; 0 for a still."""
    metadata: Metadata = field(default_factory=Metadata)
    """The metadata of the source's file, and the colour profile of the samples; filled by decode."""
    loaded: Loaded | None = None
    """Filled by plan when a network runs, else None."""
    plan: Plan | None = None
    """Filled by plan."""
    kept: Kept | None = None
    """Filled by mask/plan.py where two results are mixed."""
    creativity: float = 0.0
    """The caller's, or the one chosen for the picture; filled by plan."""
    notes: list[str] = field(default_factory=list)
    """What a caller might not expect, in sentences: see Result."""
    work: dict[str, Part] = field(default_factory=dict)
    """By step, the work on the current picture; known before the first step begins."""
    stream: Stream | None = None
    """The enlarged picture, band by band; filled by upscale. It may have 16 bits although the result has 8, so that
    nothing is rounded twice."""
    faces: "Sequence[Outcome] | None" = None
    """What was done to each face of the source, or None when faces are not restored; filled by faces."""
    refinement: Refinement | None = None
    """Filled by refine when it has something to do."""
    whole: Size | None = None
    """Size of the whole result, where only a crop of it is made: for the preview sheet."""
    certificate: "Certificate | None" = None
    """Filled by certificate, where the caller asks for one."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by step, without the time of other steps that ran inside it."""
    ticks: Callable[[], float] = time.perf_counter
    """The clock of `shared_seconds`."""
    waits: Callable[[bool], None] = _ignored
    """Called when the job begins to wait until tiles of other jobs have ended, and when it goes on."""
    shared_seconds: dict[str, float] = field(default_factory=dict)
    """As `seconds`, by a clock that counts only this job's share of the machine: see worker/timing.py."""
    before_steps: str = ""
    """Before the names of steps in `seconds` and `shared_seconds`: of a second result's, see mask/plan.py."""
    _clocks: list[tuple[str, float, float]] = field(default_factory=list)
    _progress: float = 0.0

    @property
    def progress(self) -> float:
        """0 … 1: the share of all networks' work that is done. It never decreases during a run."""
        parts = list(self.work.values())
        total = sum(part.work for part in parts)
        # With less memory than planned there are more tiles.
        done = sum(min(part.work, part.done + part.current) for part in parts)
        of_frame = done / total if total else 0.0
        of_frame = 1.0 if of_frame > 1 - _ROUNDING else of_frame
        now = (self.frame + of_frame) / self.animation.timing.frames if self.animation else of_frame
        self._progress = max(self._progress, now)
        return self._progress

    @property
    def stage(self) -> str:
        """What is being done: loading, upscaling, refining or encoding."""
        if not self.work:
            return "loading"
        steps = {"upscale": "upscaling", "refine": "refining"}
        unfinished = (step for step, part in list(self.work.items()) if part.done < part.work * (1 - _ROUNDING))
        return steps.get(next(unfinished, "").split(" ")[-1], "encoding")

    def done(self, step: str) -> float | None:
        """0 … 1: how much of a step is done, where that is measured. For any thread, once the work is known."""
        part = self.work.get(step)
        if part is not None and part.work:
            of_frame = min(1.0, (part.done + part.current) / part.work)
            return (self.frame + of_frame) / self.animation.timing.frames if self.animation else of_frame
        if step in ("decode", "plan", "load"):
            return self.progress if self.animation else 1.0
        if step == "faces" and self.faces is not None:
            return 1.0
        # These take the rows while the network computes the next ones; some encoders take them all, and begin then.
        whole = FORMATS[self.params.format].whole_in_memory
        streams = step.removeprefix(KEPT_STEP) in _STREAMS and not (whole and step == "encode")
        if not streams:
            return None
        # Rows are there when their tile has ended.
        parts = list(self.work.values())
        total, done = sum(part.work for part in parts), sum(min(part.work, part.done) for part in parts)
        of_frame = done / total if total else 0.0
        return _UNFLUSHED * (self.progress if self.animation else of_frame) or None

    def expect(self, step: str, work: float) -> None:
        """Announce a step's work on the current picture; 0 for none."""
        self.work[step] = Part(work, taken=self._spent(step))

    def advance(self, step: str, work: float, current: float = 0.0) -> None:
        """More of a step's work is done, and `current` of the next tile. Raises when the job must stop."""
        part = self.work[step]
        part.done, part.current, part.taken = part.done + work, current, self._spent(step)
        self.check()

    def networks(self) -> Iterator[Networks]:
        """Those of each pass, and of further ones."""
        if self.loaded is not None:
            yield from ((model, None) for model in self.loaded.before)
            yield from itertools.repeat((self.loaded.model, self.loaded.fidelity))

    @property
    def network_pixels(self) -> int:
        """Source pixels that went through the network, when the run has ended; see Result."""
        return self.plan.network_pixels // self.plan.frames * max(1, self.frames_made) if self.plan else 0

    @property
    def result_is_deep(self) -> bool:
        """The result has more than 8 bits per sample."""
        wanted = self.params.depth
        if self.metadata.code_points is not None:
            return True
        return FORMATS[self.params.format].deep and (self.deep if wanted is None else wanted > 8)

    @property
    def rows_are_deep(self) -> bool:
        """The encoder gets 16 bits, for the result or because colours must still be converted."""
        grey = self.samples.shape[2] < 3
        return self.result_is_deep or converts(self.params, self.metadata.icc, grey=grey)

    @property
    def origin(self) -> Origin | None:
        """How the result was made, for its label, when all steps have been defined; None where it gets none."""
        if not self.labels:
            return None
        restored = [each for each in self.faces or () if each.restored is not None]
        refined = self.refinement if self.refinement is not None and self.refinement.refiner else None
        known: tuple[tuple[str, object], ...] = (
            ("Model", self.loaded and self.loaded.name),
            ("ModelSHA256", self.loaded and self.loaded.sha256),
            ("Creativity", f"{self.creativity:g}" if self.loaded else None),
            ("Refiner", refined and refined.refiner),
            ("RefinerSHA256", refined and refined.sha256),
            ("Seed", refined and refined.seed),
            ("RestoredFaces", len(restored) or None),
        )
        return Origin(
            f"upscale-server {__version__}",
            # The last panels of a sheet are refined.
            generated=bool(refined or restored or self.params.sweep),
            source_type=self._source_type,
            details=tuple((name, str(value)) for name, value in known if value is not None),
        )

    @cached_property
    def seed(self) -> int:
        """The caller's, or one from the source's bytes, so that the same picture gives the same result."""
        if self.params.seed is not None:
            return self.params.seed
        return int.from_bytes(hashlib.sha256(self.data).digest()[:8], "big") >> (64 - _SEED_BITS)

    @cached_property
    def _source_type(self) -> str | None:
        """Searched once, not for every frame."""
        return source_type(self.data, self.metadata.xmp)

    @property
    def more_follows(self) -> bool:
        """Later steps change the colours, so nothing may be rounded to 8 bits before them."""
        wanted = self.recipe
        return self.params.faces is not None or bool(wanted.diffuses or wanted.back_projection)

    @property
    def recipe(self) -> Recipe:
        """What the creativity means for this picture. Small errors of the signal are large ones of HDR's light, so the
        result always reduces to its source."""
        wanted = recipe(self.creativity)
        keeps_hdr = self.gain_map is not None or self.metadata.code_points is not None
        return replace(wanted, back_projection=1.0) if keeps_hdr else wanted

    @property
    def planes(self) -> int:
        """How often the picture goes through the network: twice with alpha that is not opaque everywhere."""
        return 1 + has_real_alpha(self.samples)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the time within for this step, and not for the step that runs around it."""
        name = self.before_steps + name
        now = time.perf_counter(), self.ticks()
        if self._clocks:
            self._count(*now)
        self._clocks.append((name, *now))
        try:
            yield
        finally:
            now = time.perf_counter(), self.ticks()
            self._count(*now)
            self._clocks.pop()
            if self._clocks:
                self._clocks[-1] = (self._clocks[-1][0], *now)

    def timed(self, name: str, items: Iterator[_T]) -> Iterator[_T]:
        """The same items; the time to make each is counted for this step."""
        while True:
            with self.clock(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
            del item  # or the next one would be in memory at the same time

    def spent(self) -> dict[str, float]:
        """`shared_seconds`, with the time of the step that is under way. For any thread."""
        found = dict(self.shared_seconds)
        for name, _, since in self._clocks[-1:]:
            found[name] = found.get(name, 0.0) + self.ticks() - since
        return found

    def _spent(self, step: str) -> float:
        return self.spent().get(self.before_steps + step, 0.0)

    def _count(self, now: float, ticks: float) -> None:
        name, since, since_ticks = self._clocks[-1]
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - since, 4)
        self.shared_seconds[name] = self.shared_seconds.get(name, 0.0) + ticks - since_ticks


class Step(Protocol):
    """One module of this folder. A step with nothing to do returns on its first line."""

    def run(self, ctx: Context) -> None: ...


def has_alpha(samples: Samples) -> bool:
    return samples.shape[2] in (2, 4)


def has_real_alpha(samples: Samples) -> bool:
    """Whether any pixel is transparent: most files with alpha are opaque and need no second plane."""
    return has_alpha(samples) and bool((samples[..., -1] != full_scale(samples.dtype)).any())
