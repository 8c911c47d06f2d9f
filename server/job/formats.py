"""The picture formats: what each that we write can hold, and how those that we read are told apart."""

from dataclasses import dataclass
from typing import Literal

from server.errors import ResultImpossible

FormatName = Literal["jpeg", "png", "webp", "avif", "tiff", "gif"]


@dataclass(frozen=True)
class Format:
    name: FormatName
    mime: str
    suffix: str
    """File name ending, with its dot; the vendors write `.jpeg`, and so do we."""
    max_side: int
    """Longest side in pixels that the file format, or its encoder, can state."""
    grey: bool
    """Can be without colours; where not, grey is three equal ones."""
    alpha: bool
    depth: Literal[8, 10, 16]
    """Most bits per sample."""
    lossless: bool
    """Can be without loss, always or on request."""
    progressive: bool
    """Can show a coarse picture first, on request."""
    default_quality: int | None
    """1…100, or None where quality means nothing."""
    animated: bool = False
    """Can hold many frames, each with its time."""
    profile: bool = True
    """Can hold a colour profile, EXIF and XMP; where not, colours become sRGB's."""

    @property
    def deep(self) -> bool:
        """Can hold more than 8 bits per sample."""
        return self.depth > 8


_JPEG = Format(
    "jpeg", "image/jpeg", ".jpeg", max_side=65_500, grey=True, alpha=False, depth=8, lossless=False, progressive=True,
    default_quality=95,
)  # fmt: skip
_PNG = Format(
    "png", "image/png", ".png", max_side=1_000_000, grey=True, alpha=True, depth=16, lossless=True, progressive=False,
    default_quality=None, animated=True,
)  # fmt: skip
_WEBP = Format(
    "webp", "image/webp", ".webp", max_side=16_383, grey=False, alpha=True, depth=8, lossless=True, progressive=False,
    default_quality=90, animated=True,
)  # fmt: skip
_AVIF = Format(
    "avif", "image/avif", ".avif", max_side=16_384, grey=False, alpha=True, depth=10, lossless=True, progressive=False,
    default_quality=80,
)  # fmt: skip
_TIFF = Format(
    "tiff", "image/tiff", ".tiff", max_side=1_000_000, grey=True, alpha=True, depth=16, lossless=True,
    progressive=False, default_quality=None,
)  # fmt: skip
_GIF = Format(
    "gif", "image/gif", ".gif", max_side=65_535, grey=False, alpha=True, depth=8, lossless=False, progressive=False,
    default_quality=None, animated=True, profile=False,
)  # fmt: skip

FORMATS: dict[str, Format] = {each.name: each for each in (_JPEG, _PNG, _WEBP, _AVIF, _TIFF, _GIF)}
"""JPEG's side is libjpeg's (65,500), PNG's is libpng's default user limit, WebP's is 14 bits (RFC 9649), AVIF's is
libvips's, GIF's is 16 bits (GIF89a); TIFF's own would be 2³². GIF has 256 colours, and pixels that are transparent or
not."""

_PIXELS_IN_MEMORY = {"progressive": 120_000_000, "lossless webp": 50_000_000, "avif": 45_000_000, "gif": 100_000_000}
"""Most pixels for encoders that hold the whole picture, and much beside it: 12, 27, 35 and 10 bytes for each, which
makes 1 to 1.4 GiB. WebP with loss takes 5 to 8, and its longest side limits that to 2 GiB."""
_FRAME_PIXELS = 45_000_000
"""Of an animation's frames, which are held whole, the last one beside the next."""


def check_fits(size: tuple[int, int], form: Format, *, lossless: bool = False, progressive: bool = False) -> None:
    """`size`: (width, height). Raises ResultImpossible, in words that say what would work."""
    w, h = size
    if max(size) > form.max_side:
        # Nobody is sent to 256 colours.
        others: list[str] = [each.name for each in FORMATS.values() if each.max_side >= max(size) and each.profile]
        raise ResultImpossible(
            f"{form.name} can't hold {w}×{h}: its longest side is {form.max_side} pixels{_advice(others)}",
            field="format",
        )
    kind = "progressive" if progressive else f"lossless {form.name}" if lossless else form.name
    limit = _PIXELS_IN_MEMORY.get(kind, _PIXELS_IN_MEMORY.get(form.name))
    if limit is not None and w * h > limit:
        others = ["png", "tiff"] if lossless else ["jpeg", "png", "tiff"]
        raise ResultImpossible(
            f"{kind} of {w}×{h} would take too much memory: at most {limit} pixels{_advice(others)}",
            field="progressive" if progressive else "format",
        )


def check_frames(frames: int, size: tuple[int, int], form: Format) -> None:
    """An animation of that many frames, of this (width, height). Raises ResultImpossible, likewise."""
    if not form.animated:
        others = _advice([each.name for each in FORMATS.values() if each.animated])
        raise ResultImpossible(
            f"{form.name} can't hold an animation, and this one has {frames} frames{others}; or ask for the first "
            "frame alone: animation first",
            field="format",
        )
    if size[0] * size[1] > _FRAME_PIXELS:
        raise ResultImpossible(
            f"an animation of {size[0]}×{size[1]} would take too much memory: at most {_FRAME_PIXELS} pixels a frame; "
            "or ask for the first frame alone: animation first",
            field="animation",
        )


def _advice(others: list[str]) -> str:
    *most, last = others or [""]
    return f"; use {', '.join(most)} or {last}" if most else f"; use {last}" if last else ""
