"""The options of a result, which `upscale` and `watch` share, and what they mean as `Params`.

Short names are those of realesrgan-ncnn-vulkan, where it has the same option.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.base import fail
from server.job.formats import FORMATS
from server.job.job import FACE_STRENGTH, TARGET_LONG_EDGE, Faces, Params


def _completing(values: Iterable[str]) -> Any:
    known = list(values)

    def complete(incomplete: str) -> list[str]:
        return [each for each in known if each.startswith(incomplete)]

    return complete


def _models(incomplete: str) -> list[str]:
    from server.weights.manifest import Kind, read_manifest

    names = (name for name, entry in read_manifest().entries.items() if entry.kind is Kind.UPSCALER)
    return [name for name in ("auto", *names) if name.startswith(incomplete)]


ALIASES = {
    **{form.suffix.lstrip("."): name for name, form in FORMATS.items()},
    **dict.fromkeys(("jpg", "jpe", "jfif", "pjpeg", "pjp"), "jpeg"),
    **{"apng": "png", "tif": "tiff"},
}
"""Formats by file name ending, in lower case."""

Scale = Annotated[float | None, typer.Option("-s", "--scale", help="Outscale, more than 0 and at most 10. Default 4.")]
Target = Annotated[
    str | None,
    typer.Option(help="2k, 4k or 8k: the result's long edge.", autocompletion=_completing(TARGET_LONG_EDGE)),
]
Size = Annotated[str | None, typer.Option(help="Exact WIDTHxHEIGHT; the aspect ratio may change.")]
Format = Annotated[
    str | None,
    typer.Option(
        "-f",
        "--format",
        help="jpeg, png, webp, avif, tiff or gif. Default: by -o, else png; for pages their own.",
        autocompletion=_completing(FORMATS),
    ),
]
Quality = Annotated[int | None, typer.Option(help="1…100, for jpeg, webp and avif.")]
Lossless = Annotated[bool, typer.Option("--lossless", help="For webp and avif; png and tiff always are.")]
Progressive = Annotated[bool, typer.Option("--progressive", help="For jpeg: shows a coarse picture first.")]
Depth = Annotated[int | None, typer.Option(help="8 or 16 bits per sample. Default: the source's.")]
Metadata = Annotated[
    str,
    typer.Option(
        help="EXIF, XMP and IPTC: keep, copyright or strip.", autocompletion=_completing(("keep", "copyright", "strip"))
    ),
]
Colour = Annotated[
    str,
    typer.Option(help="The colour profile: keep, or srgb to convert.", autocompletion=_completing(("keep", "srgb"))),
]
Background = Annotated[str | None, typer.Option(help="For jpeg: #rrggbb behind transparent pixels. Default #ffffff.")]
Animation = Annotated[
    str,
    typer.Option(help="For animations: keep (all frames) or first.", autocompletion=_completing(("keep", "first"))),
]
Model = Annotated[
    str,
    typer.Option("-n", "--model", help="A model's name, a checkpoint's path, or auto.", autocompletion=_models),
]
Creativity = Annotated[
    float | None,
    typer.Option(help="-2 (strict) … 2 (reimagine): how much may be invented. Default 0; for clean text -2."),
]
Content = Annotated[
    str,
    typer.Option(
        help="What the picture shows: photo, text or drawing; auto detects it.",
        autocompletion=_completing(("auto", "photo", "text", "drawing")),
    ),
]
Denoise = Annotated[float | None, typer.Option(help="0…1, for realesr-general-x4v3.")]
RestoreFaces = Annotated[bool, typer.Option("--faces", help="Restore faces with GFPGAN.")]
FaceStrength = Annotated[
    float | None, typer.Option(help=f"0…1: share of the restored faces in the result. Default {FACE_STRENGTH}.")
]
FaceOnly = Annotated[
    str | None, typer.Option(help="all, largest, or numbers such as 0,2, where 0 is the largest face. Default all.")
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the detail that creativity adds. Default: derived from the picture.")
]
Suffix = Annotated[str, typer.Option(help="Added to each result's name: with _x4, photo.jpg becomes photo_x4.png.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")]


def format_name(text: str) -> str:
    """The format of that name or file name ending; any other text as it is, which Params refuses."""
    return ALIASES.get(text.lower().lstrip("."), text)


def make_params(
    *,
    scale: float | None,
    target: str | None,
    size: str | None,
    format_: str,
    quality: int | None,
    lossless: bool,
    progressive: bool,
    depth: int | None,
    metadata: str,
    colour: str,
    background: str | None,
    animation: str,
    model: str,
    creativity: float | None,
    content: str,
    denoise: float | None,
    faces: bool,
    face_strength: float | None,
    face_only: str | None,
    seed: int | None,
    sweep: bool = False,
) -> Params:
    """Raises InvalidField. Exits with code 2 for texts that can't be read, and for options that would have no
    effect."""
    if scale is None and target is None and size is None:
        scale = 4.0
    params = Params(
        scale=scale,
        target=target,  # type: ignore[arg-type]  # Params raises InvalidField for other values
        size=_parse_size(size),
        format=format_,  # type: ignore[arg-type]  # as above
        quality=quality,
        lossless=lossless,
        progressive=progressive,
        depth=depth,  # type: ignore[arg-type]  # as above
        metadata=metadata,  # type: ignore[arg-type]
        colour=colour,  # type: ignore[arg-type]
        background=_parse_colour(background or "#ffffff"),
        animation=animation,  # type: ignore[arg-type]
        model=model,
        denoise=denoise,
        creativity=creativity,
        content=content,  # type: ignore[arg-type]
        faces=_parse_faces(faces, face_strength, face_only),
        seed=seed,
        sweep=sweep,
    )
    _refuse_without_effect(params, quality, background)
    return params


def _refuse_without_effect(params: Params, quality: int | None, background: str | None) -> None:
    form = FORMATS[params.format]
    if quality is not None and form.default_quality is None:
        fail(f"--quality has no effect for {form.name}, only for jpeg, webp and avif", code=2)
    if quality is not None and params.lossless:
        fail("--quality has no effect with --lossless; give one of them", code=2)
    if background is not None and form.alpha:
        fail(f"--background has no effect for {form.name}, only for jpeg, which has no transparency", code=2)


def check_suffix(suffix: str) -> None:
    """Exits with code 2 if it is not a part of a file name."""
    if Path(suffix or "a").name != (suffix or "a"):
        fail(f"--suffix must be a part of a file name, for example _x4, not {suffix!r}", code=2)


def _parse_faces(wanted: bool, strength: float | None, only: str | None) -> Faces | None:
    """The other options for faces imply `--faces`."""
    if not wanted and strength is None and only is None:
        return None
    which: Any = only or "all"
    if which not in ("all", "largest"):
        numbers = which.split(",")
        if not all(number.strip().isdecimal() for number in numbers):
            fail(f"--face-only must be all, largest, or numbers such as 0,2, not {only!r}", code=2)
        which = tuple(int(number) for number in numbers)
    return Faces(strength=FACE_STRENGTH if strength is None else strength, only=which)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        fail(f"--size must be WIDTHxHEIGHT, for example 1920x1080, not {text!r}", code=2)
    return int(width), int(height)


def _parse_colour(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    if len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
        fail(f"--background must be #rrggbb, for example #ffffff, not {text!r}", code=2)
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue
