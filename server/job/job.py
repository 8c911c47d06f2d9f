"""The data that all parts share: a caller's parameters, a job, and its result."""

import math
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any, Literal, get_args

from server.errors import InvalidField
from server.job.creativity import MAX_CREATIVITY
from server.job.formats import FORMATS, FormatName
from server.job.mask import KEPT_CREATIVITY, Mask

Target = Literal["2k", "4k", "8k"]
Metadata = Literal["keep", "copyright", "strip"]
Colour = Literal["keep", "srgb"]
Animated = Literal["keep", "first"]
HdrWanted = Literal["keep", "tone-map"]
Wrap = Literal["none", "x", "y", "xy"]
ContentWanted = Literal["auto", "photo", "text", "drawing"]

_ALLOWED = {each: get_args(each) for each in (FormatName, Metadata, Colour, Animated, HdrWanted, Wrap, ContentWanted)}
"""Each kind's words: found out once, as parameters are made several times for each submit."""

TARGET_LONG_EDGE: dict[str, int] = {"2k": 2048, "4k": 4096, "8k": 8192}
"""Long edge of the result in pixels, exactly. No vendor defines these words; docs/api.md does."""

MAX_SCALE = 10.0
MAX_MEGAPIXELS = 1_000_000.0
"""No format can hold more. What a server makes is less: Config.max_result_pixels."""
SIZES = ("scale", "target", "size", "megapixels")
"""The parameters of which one says how large the result is."""
QUALITIES = (1, 100)
MAX_SEED = 2**63 - 1
FACE_STRENGTH = 0.8
WHITE = (255, 255, 255)


class State(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Faces:
    """How faces are restored. Raises InvalidField."""

    strength: float = FACE_STRENGTH
    """0 (only the upscaled faces) … 1 (only the restored faces)."""
    only: Literal["all", "largest"] | tuple[int, ...] = "all"
    """Which faces; numbers count from 0, in the order of the result's list."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InvalidField("the strength of faces must be between 0 and 1", field="faces")
        if isinstance(self.only, str):
            if self.only not in ("all", "largest"):
                raise InvalidField("faces may be all, largest, or a list of their numbers", field="faces")
        elif not all(number >= 0 for number in self.only):
            raise InvalidField("faces are numbered from 0", field="faces")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Faces":
        only = values.get("only", "all")
        return cls(**{**values, "only": only if isinstance(only, str) else tuple(only)})


@dataclass(frozen=True, kw_only=True)
class Params:
    """The caller's parameters. Exactly one of SIZES is given.

    Raises InvalidField, with the field, if a value is out of range.
    """

    scale: float | None = None
    """Outscale, 0 < scale ≤ 10: the result is round(w·scale) × round(h·scale)."""
    target: Target | None = None
    """The result's long edge, see TARGET_LONG_EDGE."""
    size: tuple[int, int] | None = None
    """The result's exact (width, height); the aspect ratio may change."""
    megapixels: float | None = None
    """The result's area in millions of pixels, > 0, but for the rounding of both sides; the aspect is kept."""
    format: FormatName = "png"
    quality: int | None = None
    """1 … 100, or None for the format's default."""
    lossless: bool = False
    """For formats that can be lossy or lossless."""
    progressive: bool = False
    """JPEG that shows a coarse picture first. Its encoder holds the whole picture."""
    depth: Literal[8, 16] | None = None
    """Bits per sample, or None for the source's if the format can hold them."""
    metadata: Metadata = "keep"
    colour: Colour = "keep"
    """Keep the source's colour profile, or convert to sRGB."""
    background: tuple[int, int, int] = WHITE
    """Colour behind transparent pixels in a format without transparency: 8-bit sRGB."""
    animation: Animated = "first"
    """For a source with several frames: keep all, in a format that can hold them, or the first. The vendors' APIs use
    the first."""
    hdr: HdrWanted = "tone-map"
    """For an HDR source: keep it, in a format that can hold it, or tone-map it to the standard range. The vendors' APIs
    do the latter."""
    wrap: Wrap = "none"
    """Along which axes the picture repeats, as textures and panoramas do: there the result's opposite sides fit
    together."""
    model: str = "auto"
    denoise: float | None = None
    """0 (keep grain) … 1 (smooth), for the model with a denoise strength; None for its default."""
    creativity: float | None = None
    """−2 (strict) … 2 (reimagine): see server/job/creativity.py. None is 0, but −2 for clean screens and prints, so
    that letters stay as they are."""
    content: ContentWanted = "auto"
    """What the picture shows; auto detects clean screens and prints. Used only if the model is `auto`."""
    faces: Faces | None = None
    """How to restore faces; None: faces are not restored."""
    mask: Mask | None = None
    """Where the result is that of creativity −2, whatever else is wanted; see server/pipeline/mask."""
    grain: float = 0.0
    """0 (none) … 1 (as strong as the source's own): noise like the source's is added to the result."""
    seed: int | None = None
    """0 … 2⁶³−1, or None to derive it from the source."""
    sweep: bool = False
    """The result is a sheet that shows a crop at each whole creativity; see server/pipeline/preview.py."""
    sweep_at: tuple[int, int] | None = None
    """The middle of that crop: x and y in pixels of the upright source. None: where the picture has the most detail."""
    certificate: bool = False
    """Measure what the result shows that its source does not; see server/pipeline/certificate.py."""

    def __post_init__(self) -> None:
        wanted = [name for name in SIZES if getattr(self, name) is not None]
        if len(wanted) != 1:
            said = "give exactly one of scale, target, size and megapixels"
            raise InvalidField(said, field=wanted[-1] if wanted else "scale")
        if self.scale is not None and not (math.isfinite(self.scale) and 0 < self.scale <= MAX_SCALE):
            raise InvalidField(f"scale must be more than 0 and at most {MAX_SCALE:g}", field="scale")
        if self.target is not None and self.target not in TARGET_LONG_EDGE:
            raise InvalidField(f"target must be one of {', '.join(TARGET_LONG_EDGE)}", field="target")
        if self.size is not None and not (len(self.size) == 2 and min(self.size) >= 1):
            raise InvalidField("size must be two whole numbers of at least 1", field="size")
        if self.megapixels is not None and not 0 < self.megapixels <= MAX_MEGAPIXELS:  # NaN is not either
            raise InvalidField(f"megapixels must be more than 0 and at most {MAX_MEGAPIXELS:.0f}", field="megapixels")
        if self.format not in _ALLOWED[FormatName]:
            raise InvalidField(f"format must be one of {', '.join(FORMATS)}", field="format")
        if self.quality is not None and not QUALITIES[0] <= self.quality <= QUALITIES[1]:
            raise InvalidField("quality must be between {} and {}".format(*QUALITIES), field="quality")
        form = FORMATS[self.format]
        if self.lossless and not form.lossless:
            raise InvalidField(
                f"{form.name} is always lossy; for lossless use png, webp, avif or tiff", field="lossless"
            )
        if self.progressive and not form.progressive:
            raise InvalidField(f"{form.name} can't be progressive; jpeg can", field="progressive")
        if self.depth not in (None, 8, 16):
            raise InvalidField("depth must be 8 or 16", field="depth")
        if self.depth is not None and self.depth > form.depth:
            raise InvalidField(
                f"{form.name} holds at most {form.depth} bits per sample; use png or tiff", field="depth"
            )
        if self.metadata not in _ALLOWED[Metadata]:
            raise InvalidField(f"metadata must be one of {', '.join(_ALLOWED[Metadata])}", field="metadata")
        if self.colour not in _ALLOWED[Colour]:
            raise InvalidField(f"colour must be one of {', '.join(_ALLOWED[Colour])}", field="colour")
        if self.animation not in _ALLOWED[Animated]:
            raise InvalidField(f"animation must be one of {', '.join(_ALLOWED[Animated])}", field="animation")
        if self.hdr not in _ALLOWED[HdrWanted]:
            raise InvalidField(f"hdr must be one of {', '.join(_ALLOWED[HdrWanted])}", field="hdr")
        if self.wrap not in _ALLOWED[Wrap]:
            raise InvalidField(f"wrap must be one of {', '.join(_ALLOWED[Wrap])}", field="wrap")
        if not (len(self.background) == 3 and all(0 <= value <= 255 for value in self.background)):
            raise InvalidField("background must be three numbers between 0 and 255", field="background")
        if self.denoise is not None and not 0 <= self.denoise <= 1:
            raise InvalidField("denoise must be between 0 and 1", field="denoise")
        if self.creativity is not None and not abs(self.creativity) <= MAX_CREATIVITY:  # NaN is not either
            raise InvalidField("creativity must be between -2 and 2", field="creativity")
        if self.content not in _ALLOWED[ContentWanted]:
            raise InvalidField(f"content must be one of {', '.join(_ALLOWED[ContentWanted])}", field="content")
        if self.mask is not None and self.sweep:
            raise InvalidField("a sweep shows whole results; it can't have a mask", field="mask")
        if not 0 <= self.grain <= 1:
            raise InvalidField("grain must be between 0 and 1", field="grain")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise InvalidField(f"seed must be between 0 and {MAX_SEED}", field="seed")
        if self.sweep_at is not None and not (self.sweep and len(self.sweep_at) == 2 and min(self.sweep_at) >= 0):
            raise InvalidField("sweep_at must be two whole numbers of at least 0, beside sweep", field="sweep_at")
        if self.certificate and self.sweep:
            raise InvalidField("a sheet has no certificate: give either sweep or certificate", field="certificate")

    @property
    def kept(self) -> "Params":
        """Those of the result that the mask keeps."""
        return replace(self, creativity=KEPT_CREATIVITY, faces=None, mask=None)

    def to_dict(self) -> dict[str, Any]:
        # `asdict` would take as long as reading a job from its table.
        parts = {"faces": self.faces and asdict(self.faces), "mask": self.mask and asdict(self.mask)}
        return {**vars(self), **parts}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Params":
        """Also reads rows that an earlier version has written."""
        size, at, faces, mask = (values.get(name) for name in ("size", "sweep_at", "faces", "mask"))
        read = {
            "size": tuple(size) if size else None,
            "sweep_at": None if at is None else tuple(at),
            "background": tuple(values.get("background", WHITE)),
            "mask": None if mask is None else Mask.from_dict(mask),
        }
        return cls(**{**values, **read, "faces": Faces.from_dict(faces) if isinstance(faces, dict) else None})


@dataclass(frozen=True, kw_only=True)
class Result:
    """A job's result."""

    key: str
    """The blob's name."""
    width: int
    height: int
    size_bytes: int
    format: FormatName
    model: str
    """Names of the networks, with their shares; "none" if the picture was only reduced."""
    model_sha256: str | None
    """Of the network's file; for several networks of the recipe, see weights/README.md."""
    model_form: str | None = None
    """Where the network's weights come from: "bundled", "release", "package, fp16" or "own" (the operator's)."""
    notes: tuple[str, ...] = ()
    """Sentences about what the caller may not expect: another network was used, parts of the source are not kept."""
    refinement: dict[str, Any] | None = None
    """The parameters of the diffusion pass: the recipe of server/job/creativity.py, the network's name and hash, and
    the seed. None if no pass was made for creativity."""
    frames: int = 1
    """More than 1 for an animation."""
    duration_s: float | None = None
    """Of one play of an animation; else None."""
    network_pixels: int = 0
    """Pixels that went through the network, in all passes; frames equal to the one before are not counted."""
    faces: tuple[dict[str, Any], ...] | None = None
    """What was done to each face, or None if faces were not requested; see server/faces."""
    certificate: dict[str, Any] | None = None
    """The figures of docs/certificate.md, and `heat_map`, the key of a blob; None if none was asked for."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time in seconds by pipeline step."""
    cost: float = 0.0
    """The price, by the settings at that time; see price.py."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all its blobs."""
        return (self.key,) if self.certificate is None else (self.key, self.certificate["heat_map"])

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))  # all its parts are JSON already

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Result":
        faces = values.get("faces")
        notes = tuple(values.get("notes", ()))
        return cls(**{**values, "faces": None if faces is None else tuple(faces), "notes": notes})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request for work, from submit to result: a snapshot of its row."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """A UUID as 32 lower-case hex digits, which is valid in every vendor's API."""
    dialect: str
    """The API that it was submitted with: "native", "wavespeed", …"""
    owner: str
    """`Caller.id` of the key that it was submitted with."""
    params: Params
    request: dict[str, Any] = field(default_factory=dict)
    """Data that only the dialect needs: the vendor's model name, the request's input for the response, flags."""
    external_id: str | None = None
    """The caller's own id for it, if the vendor's API has such ids: unique per owner and dialect."""
    source_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """With this id the source, and with `result_id` the result, can be the source of a later job. Unlike a blob's key
    it is known from the start, and gives no access by itself: only the owner may use it."""
    result_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    keep_s: float | None = None
    """How long the job and its pictures are kept after its end, if shorter than `Config.keep_s`."""
    source_url: str | None = None
    """The URL to fetch the source from, or None if it came with the request."""
    source_key: str | None = None
    """The source's blob; None until it is stored. A job without it is not ready to run."""
    state: State = State.QUEUED
    priority: int = 0
    """Higher runs sooner."""
    progress: float = 0.0
    """0 … 1: the share of the networks' work that is done."""
    stage: str | None = None
    """While it runs: loading, upscaling, refining or encoding."""
    left_s: float | None = None
    """Seconds that it would still take if it had a machine of its own; None if nothing is known. Of a running one, as
    its worker said last: so that it ends when it would if the worker's jobs shared its time evenly."""
    left_at: float | None = None
    """When its worker said so."""
    alone_s: float | None = None
    """Of `left_s`, those of large tiles, of which a worker computes one at a time."""
    created_at: float = field(default_factory=time.time)
    """Unix seconds, as are all times here."""
    started_at: float | None = None
    finished_at: float | None = None
    attempt: int = 0
    """How many times a worker has leased it: the fencing token of every write of a worker, see server/db/jobs.py."""
    worker: str | None = None
    cancel_requested: bool = False
    result: Result | None = None
    error_code: str | None = None
    error_message: str | None = None
    cancel_at: float | None = None
    """When it is cancelled unless it has ended; None: never. See server/db/deadlines.py."""

    @property
    def keys(self) -> list[str]:
        """Of all its blobs: the source, the mask's picture, those of the result."""
        mask = self.params.mask.image if self.params.mask else None
        return [key for key in (self.source_key, mask, *(self.result.keys if self.result else ())) if key]
