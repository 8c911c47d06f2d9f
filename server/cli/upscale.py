"""`upscale`: pictures without a server."""

import functools
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyvips
import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from server.atomic_files import removed_when_ended, written
from server.cli.base import (
    AsJson,
    DataDir,
    Device,
    complain,
    fail,
    plain,
    plain_errors,
    stderr,
    stdout,
    with_malloc_settings,
)
from server.config import Config, load_config
from server.errors import UpscaleError
from server.job.formats import FORMATS
from server.job.job import FACE_STRENGTH, Faces, Params

if TYPE_CHECKING:
    from server.pipeline import Context


def upscale(
    files: Annotated[list[Path], typer.Argument(help="Pictures.")],
    output: Annotated[str, typer.Option("-o", "--output", help="A file; or a folder, which may end with a slash.")],
    scale: Annotated[float | None, typer.Option(help="Factor, more than 0 and at most 10. Default 4.")] = None,
    target: Annotated[str | None, typer.Option(help="2k, 4k or 8k: the long edge.")] = None,
    size: Annotated[str | None, typer.Option(help="Exact WIDTHxHEIGHT; the aspect may change.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="jpeg, png, webp, avif, tiff or gif. Default: by -o, else png.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="1…100, for jpeg, webp and avif.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="For webp and avif; png and tiff always are.")] = False,
    progressive: Annotated[bool, typer.Option("--progressive", help="For jpeg: a coarse picture comes first.")] = False,
    depth: Annotated[int | None, typer.Option(help="8 or 16 bits per sample. Default: the source's.")] = None,
    metadata: Annotated[str, typer.Option(help="EXIF, XMP and IPTC: keep, copyright or strip.")] = "keep",
    colour: Annotated[str, typer.Option(help="The colour profile: keep, or srgb to convert.")] = "keep",
    background: Annotated[
        str | None, typer.Option(help="#rrggbb under transparent pixels, in jpeg. Default #ffffff.")
    ] = None,
    animation: Annotated[str, typer.Option(help="For animations: keep all frames, or first.")] = "keep",
    model: Annotated[str, typer.Option(help="A model's name, a checkpoint's path, or auto.")] = "auto",
    device: Device = None,
    creativity: Annotated[
        float | None,
        typer.Option(help="-2 (strict) … 2 (reimagine): how much may be invented. Default 0; clean text -2."),
    ] = None,
    content: Annotated[
        str, typer.Option(help="What the picture shows: photo, text, drawing, or auto, which examines it.")
    ] = "auto",
    denoise: Annotated[float | None, typer.Option(help="0…1, for realesr-general-x4v3.")] = None,
    faces: Annotated[bool, typer.Option("--faces", help="Restore faces with GFPGAN.")] = False,
    face_strength: Annotated[
        float | None, typer.Option(help=f"0…1: how much of the restored faces shows. Default {FACE_STRENGTH}.")
    ] = None,
    face_only: Annotated[
        str | None, typer.Option(help="all, largest, or numbers such as 0,2: the largest face is 0. Default all.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the detail that creativity adds. Default: from the picture.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="A sheet that shows 512 pixels of the result at each creativity, -2 to 2.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Upscale pictures without a server."""
    with_malloc_settings()
    with plain_errors():
        config = load_config(device=device, data_dir=data_dir)
        named = _format_of(files, output)
        format_ = named if format_ is None else _ALIASES.get(format_.lower(), format_)
        if scale is None and target is None and size is None:
            scale = 4.0
        params = Params(
            scale=scale,
            target=target,  # type: ignore[arg-type]  # Params refuses what is not a Target, in words
            size=_parse_size(size),
            format=format_,  # type: ignore[arg-type]  # likewise
            quality=quality,
            lossless=lossless,
            progressive=progressive,
            depth=depth,  # type: ignore[arg-type]  # here too, and below
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
        _check_options(params, files, output, quality, background)
        destinations = _destinations(files, output, params.format)
        with removed_when_ended():
            failed = _upscale_all(config, params, destinations, as_json)
    if failed:
        raise typer.Exit(1)


def _reason(error: Exception) -> str:
    if isinstance(error, UpscaleError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = (str(error).strip().splitlines() or [""])[-1]
    return said if isinstance(error, OSError | pyvips.Error) and said else f"{type(error).__name__}: {said}"


def _upscale_all(config: Config, params: Params, destinations: dict[Path, Path], as_json: bool) -> int:
    """Returns how many failed; a failure of one does not stop the others."""
    from server.logs import configure_logs
    from server.weights.catalog import Catalog
    from server.worker.upscaler import Upscaler

    configure_logs(logging.WARNING)  # without it they would go to standard output
    upscaler = Upscaler(config, Catalog.of(config), allow_paths=True)
    upscaler.load(params)  # a wrong name is one error, not one per file
    if params.faces is not None:
        upscaler.load_faces()
    failed = 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=as_json or not stderr.is_terminal, transient=True) as progress:
        for source, destination in destinations.items():
            name = plain(source.name)
            bar = progress.add_task(f"{name}  loading", total=1.0)
            started = time.perf_counter()
            try:
                data = source.read_bytes()
                with written(destination) as partial:
                    ctx = upscaler.prepare(params, data, partial)
                    upscaler.run(ctx, functools.partial(_show, progress, bar, name, ctx))
            except Exception as error:  # also what nobody has foreseen: the others shall be done nevertheless
                failed += 1
                reason = _reason(error)
                if as_json:
                    print(json.dumps({"source": str(source), "error": reason}), flush=True)
                else:
                    complain(f"{source}: {reason}")
                continue
            finally:
                progress.remove_task(bar)
            assert ctx.plan is not None  # the run has ended well
            w, h = ctx.plan.result
            seconds = round(time.perf_counter() - started, 3)
            if as_json:
                line = {"source": str(source), "result": str(destination), "width": w, "height": h}
                if ctx.animation is not None:
                    line |= {"frames": ctx.plan.frames, "duration_s": ctx.animation.timing.duration_s}
                line |= {"model": ctx.loaded.name if ctx.loaded else "none", "seconds": seconds, "steps": ctx.seconds}
                if ctx.loaded is not None:
                    line |= {"model_sha256": ctx.loaded.sha256, "model_form": ctx.loaded.form}
                if ctx.notes:
                    line |= {"notes": ctx.notes}
                if ctx.refinement is not None:
                    line |= {"refinement": ctx.refinement.to_dict()}
                if ctx.faces is not None:
                    line |= {"faces": [face.to_dict() for face in ctx.faces]}
                print(json.dumps(line), flush=True)
            else:
                frames = f"  {ctx.plan.frames} frames" if ctx.animation is not None else ""
                model = f"  {ctx.loaded.name}" if ctx.loaded else ""
                done = f"{plain(destination)}  {w}×{h}{frames}  {seconds:.1f} s{model}"
                if ctx.faces is not None:
                    done += (
                        f"  {sum(face.restored is not None for face in ctx.faces)} of {len(ctx.faces)} faces restored"
                    )
                stdout.print(done, markup=False, highlight=False, soft_wrap=True)
                for note in ctx.notes:
                    stderr.print(plain(f"note: {source}: {note}"), markup=False, highlight=False, soft_wrap=True)
    return failed


def _show(progress: Progress, bar: TaskID, name: str, ctx: "Context") -> None:
    progress.update(bar, completed=ctx.progress, description=f"{name}  {ctx.stage}")


_ALIASES = {
    **{form.suffix.lstrip("."): name for name, form in FORMATS.items()},
    **dict.fromkeys(("jpg", "jpe", "jfif", "pjpeg", "pjp"), "jpeg"),
    **{"apng": "png", "tif": "tiff"},
}
"""Formats by file name endings, in lower case."""


def _is_folder(files: list[Path], output: str) -> bool:
    return len(files) > 1 or _says_folder(output) or not Path(output).suffix


def _says_folder(output: str) -> bool:
    # NOTE: not Path.is_dir, which raises for a name that is too long.
    return output.endswith((os.sep, os.altsep or os.sep)) or os.path.isdir(output)


def _format_of(files: list[Path], output: str) -> str:
    """The format that the result's name says; ends the command if that is impossible."""
    suffix = Path(output).suffix
    named = _ALIASES.get(suffix.lower().lstrip("."))
    if _is_folder(files, output):
        if os.path.isfile(output):
            fail(f"{output} is a file; several pictures need a folder", code=2)
        if named is not None and not _says_folder(output):
            fail(f"{output} names one picture; for several, name a folder, such as {Path(output).stem}/", code=2)
        return "png"
    if named is None:
        fail(f"a result can't be written as {suffix}: use {_endings()}; a folder of that name ends with /", code=2)
    return named


def _check_options(params: Params, files: list[Path], output: str, quality: int | None, background: str | None) -> None:
    """Refuse options that would have no effect."""
    form = FORMATS[params.format]
    if not _is_folder(files, output) and (named := _format_of(files, output)) != form.name:
        fail(f"{output} is to be {named} by its name, and {form.name} by --format", code=2)
    if quality is not None and form.default_quality is None:
        fail(f"--quality means nothing for {form.name}; it does for jpeg, webp and avif", code=2)
    if quality is not None and params.lossless:
        fail("--quality means nothing with --lossless; give one of them", code=2)
    if background is not None and form.name != "jpeg":
        fail(f"--background means nothing for {form.name}; it does for jpeg, which has no transparency", code=2)


def _endings() -> str:
    *most, last = (form.suffix for form in FORMATS.values())
    return f"{', '.join(most)} or {last}"


def _destinations(files: list[Path], output: str, format_: str) -> dict[Path, Path]:
    """Where each picture's result goes. Never over a source, and never two at one place."""
    if _is_folder(files, output):
        result = {file: Path(output) / (file.stem + FORMATS[format_].suffix) for file in files}
    else:
        result = {files[0]: Path(output)}
    taken: dict[Path, Path] = {}
    for file, destination in result.items():
        first = taken.setdefault(destination, file)
        if first != file:
            fail(f"{first} and {file} would both be written to {destination}; nothing was done", code=2)
    sources = {os.path.realpath(file) for file in files}
    for file, destination in result.items():
        if os.path.realpath(destination) in sources:
            fail(f"the result of {file} would overwrite {destination}", code=2)
    return result


def _parse_faces(wanted: bool, strength: float | None, only: str | None) -> Faces | None:
    """An option about faces asks for faces, with or without `--faces`."""
    if not wanted and strength is None and only is None:
        return None
    which: Any = only or "all"
    if which not in ("all", "largest"):
        numbers = which.split(",")
        if not all(number.strip().isdecimal() for number in numbers):
            fail(f"--face-only wants all, largest, or numbers such as 0,2, not {only!r}", code=2)
        which = tuple(int(number) for number in numbers)
    return Faces(strength=FACE_STRENGTH if strength is None else strength, only=which)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        fail(f"--size wants WIDTHxHEIGHT, for example 1920x1080, not {text!r}", code=2)
    return int(width), int(height)


def _parse_colour(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    if len(digits) != 6 or not set(digits.lower()) <= set("0123456789abcdef"):
        fail(f"--background wants #rrggbb, for example #ffffff, not {text!r}", code=2)
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue
