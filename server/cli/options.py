"""The options of a result, which `upscale`, `watch` and `batch` share, and what they mean as `Params`.

Short names are those of realesrgan-ncnn-vulkan, where it has the same option.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from server.cli.base import fail
from server.cli.sources import read
from server.errors import BadSource
from server.job.formats import FORMATS
from server.job.job import FACE_STRENGTH, SIZES, TARGET_LONG_EDGE, Faces, Params, Wrap
from server.job.mask import Box, Mask, of_mask

if TYPE_CHECKING:
    from server.config import Config


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

Suffix = Annotated[str, typer.Option(help="Added to each result's name: with _x4, photo.jpg becomes photo_x4.png.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")]


@dataclass(frozen=True)
class ResultOptions:
    """The options that say what a result shall be. `with_result_options` gives them to a command."""

    scale: Annotated[
        float | None, typer.Option("-s", "--scale", help="Outscale, more than 0 and at most 10. Default 4.")
    ] = None
    target: Annotated[
        str | None,
        typer.Option(help="2k, 4k or 8k: the result's long edge.", autocompletion=_completing(TARGET_LONG_EDGE)),
    ] = None
    size: Annotated[str | None, typer.Option(help="Exact WIDTHxHEIGHT; the aspect ratio may change.")] = None
    megapixels: Annotated[
        float | None, typer.Option(help="The result's area in millions of pixels; the aspect ratio is kept.")
    ] = None
    format_: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--format",
            help="jpeg, png, webp, avif, tiff or gif. Default: by -o, else png; for pages their own.",
            autocompletion=_completing(FORMATS),
        ),
    ] = None
    quality: Annotated[int | None, typer.Option(help="1…100, for jpeg, webp and avif.")] = None
    lossless: Annotated[bool, typer.Option("--lossless", help="For webp and avif; png and tiff always are.")] = False
    progressive: Annotated[bool, typer.Option("--progressive", help="For jpeg: shows a coarse picture first.")] = False
    depth: Annotated[int | None, typer.Option(help="8 or 16 bits per sample. Default: the source's.")] = None
    metadata: Annotated[
        str,
        typer.Option(
            help="EXIF, XMP and IPTC: keep, copyright or strip.",
            autocompletion=_completing(("keep", "copyright", "strip")),
        ),
    ] = "keep"
    colour: Annotated[
        str,
        typer.Option(
            help="The colour profile: keep, or srgb to convert.", autocompletion=_completing(("keep", "srgb"))
        ),
    ] = "keep"
    background: Annotated[
        str | None, typer.Option(help="For jpeg: #rrggbb behind transparent pixels. Default #ffffff.")
    ] = None
    animation: Annotated[
        str,
        typer.Option(help="For animations: keep (all frames) or first.", autocompletion=_completing(("keep", "first"))),
    ] = "keep"
    hdr: Annotated[
        str,
        typer.Option(
            help="For HDR pictures: keep (in jpeg, avif or png), or tone-map to the standard range.",
            autocompletion=_completing(("keep", "tone-map")),
        ),
    ] = "keep"
    wrap: Annotated[
        str,
        typer.Option(
            help="For textures and panoramas that repeat: along x, y or xy the result's sides fit together.",
            autocompletion=_completing(get_args(Wrap)),
        ),
    ] = "none"
    model: Annotated[
        str,
        typer.Option("-n", "--model", help="A model's name, a checkpoint's path, or auto.", autocompletion=_models),
    ] = "auto"
    creativity: Annotated[
        float | None,
        typer.Option(help="-2 (strict) … 2 (reimagine): how much may be invented. Default 0; for clean text -2."),
    ] = None
    content: Annotated[
        str,
        typer.Option(
            help="What the picture shows: photo, text or drawing; auto detects it.",
            autocompletion=_completing(("auto", "photo", "text", "drawing")),
        ),
    ] = "auto"
    denoise: Annotated[float | None, typer.Option(help="0…1, for realesr-general-x4v3.")] = None
    faces: Annotated[bool, typer.Option("--faces", help="Restore faces with GFPGAN.")] = False
    face_strength: Annotated[
        float | None, typer.Option(help=f"0…1: share of the restored faces in the result. Default {FACE_STRENGTH}.")
    ] = None
    face_only: Annotated[
        str | None, typer.Option(help="all, largest, or numbers such as 0,2, where 0 is the largest face. Default all.")
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture that is white where the result shall be that of creativity -2, exactly.",
            exists=True,
            dir_okay=False,
        ),
    ] = None
    mask_box: Annotated[
        list[str] | None,
        typer.Option(help="X,Y,WIDTH,HEIGHT in the source's pixels: the same, as a box. May be given several times."),
    ] = None
    mask_keep: Annotated[
        str,
        typer.Option(
            help="What stays so: inside (of the boxes, or white) or outside.",
            autocompletion=_completing(("inside", "outside")),
        ),
    ] = "inside"
    grain: Annotated[
        float, typer.Option(help="0…1: grain like the source's is added to the result; at 1 as strong.")
    ] = 0.0
    seed: Annotated[
        int | None, typer.Option(help="Seed of the detail that creativity adds. Default: derived from the picture.")
    ] = None

    certificate: Annotated[
        bool,
        typer.Option(
            "--certificate",
            help="Measure what was invented: NAME.certificate.json and NAME.certificate.png beside each result.",
        ),
    ] = False

    def params(self, default_format: str = "png", *, sweep: bool = False) -> Params:
        """Raises InvalidField. Exits with code 2 for texts that can't be read, and for options that would have no
        effect."""
        nothing_said = all(getattr(self, name) is None for name in SIZES)
        params = Params(
            scale=4.0 if nothing_said else self.scale,
            target=self.target,  # type: ignore[arg-type]  # Params raises InvalidField for other values
            size=_parse_size(self.size),
            megapixels=self.megapixels,
            format=default_format if self.format_ is None else format_name(self.format_),  # type: ignore[arg-type]  # as above
            quality=self.quality,
            lossless=self.lossless,
            progressive=self.progressive,
            depth=self.depth,  # type: ignore[arg-type]  # as above
            metadata=self.metadata,  # type: ignore[arg-type]
            colour=self.colour,  # type: ignore[arg-type]
            background=_parse_colour(self.background or "#ffffff"),
            animation=self.animation,  # type: ignore[arg-type]
            hdr=self.hdr,  # type: ignore[arg-type]
            wrap=self.wrap,  # type: ignore[arg-type]
            model=self.model,
            denoise=self.denoise,
            creativity=self.creativity,
            content=self.content,  # type: ignore[arg-type]
            faces=_parse_faces(self.faces, self.face_strength, self.face_only),
            mask=self._mask(),
            grain=self.grain,
            seed=self.seed,
            certificate=self.certificate,
            sweep=sweep,
        )
        self._refuse_without_effect(params)
        return params

    def _mask(self) -> Mask | None:
        if self.mask is None and not self.mask_box:
            if self.mask_keep != "inside":
                fail("--mask-keep has no effect without --mask or --mask-box", code=2)
            return None
        boxes = tuple(_parse_box(text) for text in self.mask_box) if self.mask_box else None
        image = None if self.mask is None else ""  # the file is read by `mask_picture`
        return Mask(boxes=boxes, image=image, keep=self.mask_keep)  # type: ignore[arg-type]  # as above

    def mask_picture(self, config: "Config") -> bytes:
        """The file of `--mask`, which is a picture; else nothing. Raises BadSource."""
        if self.mask is None:
            return b""
        from server.images.read.open import read_header

        data = read(self.mask, config.max_source_bytes)
        try:
            read_header(data, config.max_source_pixels)
        except BadSource as error:
            raise of_mask(error) from error
        return data

    def _refuse_without_effect(self, params: Params) -> None:
        form = FORMATS[params.format]
        if self.quality is not None and form.default_quality is None:
            fail(f"--quality has no effect for {form.name}, only for jpeg, webp and avif", code=2)
        if self.quality is not None and params.lossless:
            fail("--quality has no effect with --lossless; give one of them", code=2)
        if self.background is not None and form.alpha:
            fail(f"--background has no effect for {form.name}, only for jpeg, which has no transparency", code=2)


def with_result_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose parameter `result: ResultOptions` becomes one option for each field, at its place."""
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "result":
            parameters += inspect.signature(ResultOptions).parameters.values()
        else:
            parameters.append(parameter)
    names = [each.name for each in dataclasses.fields(ResultOptions)]

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        result = ResultOptions(**{name: given.pop(name) for name in names})
        command(**given, result=result)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads both of these
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanded


def format_name(text: str) -> str:
    """The format of that name or file name ending; any other text as it is, which Params refuses."""
    return ALIASES.get(text.lower().lstrip("."), text)


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


def _parse_box(text: str) -> Box:
    numbers = [number.strip() for number in text.split(",")]
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        fail(f"--mask-box must be X,Y,WIDTH,HEIGHT, for example 40,20,300,200, not {text!r}", code=2)
    left, top, width, height = (int(number) for number in numbers)
    return left, top, width, height


def _parse_colour(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    if len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
        fail(f"--background must be #rrggbb, for example #ffffff, not {text!r}", code=2)
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue
