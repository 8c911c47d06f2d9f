"""The picture formats that are written: what each can hold, and how large a picture its encoder can take."""

from dataclasses import dataclass
from typing import Literal

from server.errors import ResultImpossible

FormatName = Literal["jpeg", "png", "webp", "avif", "tiff", "gif"]
Hdr = Literal["gain map", "PQ", "HLG"]
"""How a picture states more than the standard range: a gain map beside a standard picture (ISO 21496-1, Ultra HDR), or
one of the two curves of ITU-R BT.2100."""


@dataclass(frozen=True)
class Format:
    name: FormatName
    mime: str
    suffix: str
    """File name ending, with its dot; `.jpeg`, as the vendors write it."""
    max_side: int
    """Longest side in pixels that the file format, or its encoder, allows."""
    grey: bool
    """Can hold grey pictures; if not, grey is stored as three equal channels."""
    alpha: bool
    depth: Literal[8, 10, 16]
    """Most bits per sample."""
    lossless: bool
    """Can be lossless, always or on request."""
    progressive: bool
    """Can show a coarse picture first, on request."""
    default_quality: int | None
    """1 … 100, or None if the format has no quality setting."""
    animated: bool = False
    """Can hold several frames, each with its duration."""
    profile: bool = True
    """Can hold a colour profile and EXIF; if not, colours are converted to sRGB."""
    resolution: bool = True
    """Has a field of its own for the resolution; if not, EXIF holds it."""
    hdr: tuple[Hdr, ...] = ()
    """The kinds of HDR that it can hold here."""
    texts: Literal["keywords", "comments", "none"] = "none"
    """Holds texts with keywords (PNG), comments without keywords, or neither."""
    whole_in_memory: bool = False
    """The encoder holds the whole picture; if not, it writes row by row."""
    max_pixels: int | None = None
    """Most pixels, so that encoding takes at most about 1.4 GiB; None: no limit but `max_side`."""
    max_pixels_lossless: int | None = None
    """The same for lossless files; None: as `max_pixels`."""
    max_pixels_progressive: int | None = None

    @property
    def deep(self) -> bool:
        """Can hold more than 8 bits per sample."""
        return self.depth > 8


_JPEG = Format(
    "jpeg", "image/jpeg", ".jpeg", max_side=65_500, grey=True, alpha=False, depth=8, lossless=False, progressive=True,
    default_quality=95, hdr=("gain map",), texts="comments", max_pixels_progressive=120_000_000,
)  # fmt: skip
_PNG = Format(
    "png", "image/png", ".png", max_side=1_000_000, grey=True, alpha=True, depth=16, lossless=True, progressive=False,
    default_quality=None, animated=True, hdr=("PQ", "HLG"), texts="keywords",
)  # fmt: skip
_WEBP = Format(
    "webp", "image/webp", ".webp", max_side=16_383, grey=False, alpha=True, depth=8, lossless=True, progressive=False,
    default_quality=90, animated=True, resolution=False, whole_in_memory=True, max_pixels_lossless=50_000_000,
)  # fmt: skip
_AVIF = Format(
    "avif", "image/avif", ".avif", max_side=16_384, grey=False, alpha=True, depth=10, lossless=True, progressive=False,
    default_quality=80, resolution=False, hdr=("PQ", "HLG"), whole_in_memory=True, max_pixels=45_000_000,
)  # fmt: skip
_TIFF = Format(
    "tiff", "image/tiff", ".tiff", max_side=1_000_000, grey=True, alpha=True, depth=16, lossless=True,
    progressive=False, default_quality=None,
)  # fmt: skip
_GIF = Format(
    "gif", "image/gif", ".gif", max_side=65_535, grey=False, alpha=True, depth=8, lossless=False, progressive=False,
    default_quality=None, animated=True, profile=False, texts="comments", whole_in_memory=True,
    max_pixels=100_000_000,
)  # fmt: skip

FORMATS: dict[str, Format] = {each.name: each for each in (_JPEG, _PNG, _WEBP, _AVIF, _TIFF, _GIF)}
"""Longest sides: JPEG's is libjpeg's (65,500), PNG's is libpng's default user limit, WebP's is 14 bits (RFC 9649),
AVIF's is libvips's, GIF's is 16 bits (GIF89a); TIFF's own would be 2³². GIF has 256 colours, and each pixel is either
transparent or opaque.

Memory, in bytes per pixel: progressive JPEG takes 12, lossless WebP 27, AVIF 35, GIF 10, which is 1 to 1.4 GiB at these
limits. Lossy WebP takes 5 to 8, and its longest side limits that to 2 GiB."""

_FRAME_PIXELS = 45_000_000
"""Most pixels of an animation's frame: two whole frames are held, the last and the next."""


def check_fits(size: tuple[int, int], form: Format, *, lossless: bool = False, progressive: bool = False) -> None:
    """`size`: (width, height). Raises ResultImpossible, with advice on what would work."""
    w, h = size
    if max(size) > form.max_side:
        # Formats without a profile are not advised: GIF has only 256 colours.
        others: list[str] = [each.name for each in FORMATS.values() if each.max_side >= max(size) and each.profile]
        raise ResultImpossible(
            f"{form.name} can't hold {w}×{h}: its longest side is {form.max_side} pixels{_advice(others)}",
            field="format",
        )
    kind: str = form.name
    limit = form.max_pixels
    if progressive:
        kind, limit = "progressive", form.max_pixels_progressive
    elif lossless:
        kind, limit = f"lossless {form.name}", form.max_pixels_lossless or form.max_pixels
    if limit is not None and w * h > limit:
        rows = [each for each in FORMATS.values() if not each.whole_in_memory]
        others = [each.name for each in rows if each.lossless or not lossless]
        raise ResultImpossible(
            f"{kind} of {w}×{h} would take too much memory: at most {limit} pixels{_advice(others)}",
            field="progressive" if progressive else "format",
        )


def check_frames(frames: int, size: tuple[int, int], form: Format) -> None:
    """An animation of that many frames of `size`: (width, height). Raises ResultImpossible, with advice."""
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


def check_hdr(hdr: Hdr, form: Format) -> None:
    """Whether the format can hold that kind of HDR. Raises ResultImpossible, with advice."""
    if hdr not in form.hdr:
        others = _advice([each.name for each in FORMATS.values() if hdr in each.hdr])
        raise ResultImpossible(
            f"the source is HDR ({hdr}), which {form.name} can't hold here{others}; or ask for the standard range: "
            "hdr tone-map",
            field="format",
        )


def _advice(others: list[str]) -> str:
    *most, last = others or [""]
    return f"; use {', '.join(most)} or {last}" if most else f"; use {last}" if last else ""
