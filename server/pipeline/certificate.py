"""The certificate of a result: figures and a heat map of what the file shows that its source does not.

It is made from the two encoded files, so that anyone who has them can make it again, and so that it counts what a lossy
encoder changes. Of animations it covers the first frame. docs/certificate.md says what the figures mean.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyvips

from server.errors import InvalidRequest
from server.images.metadata import colour, metadata
from server.images.read.open import Samples, open_picture, why
from server.images.samples import Depth
from server.images.write.save import flattened
from server.job.job import WHITE
from server.pipeline.base import Context, has_alpha, has_real_alpha
from server.pipeline.decode import upright
from server.rows.certificate import Box, Certificate, Known, measure
from server.rows.stream import Stream

VERSION = 1
_BAND_ROWS = 128
_TOLERANCES = {"difference": 0.1, "fine_energy": 0.002, "drift": 0.1, "seams": 0.02, "correlation": 0.002}
"""Levels; shares; ratios. Sums of floats differ between processors, and decoders between their versions."""


def run(ctx: Context) -> None:
    joints: list[set[int]] = [set(), set()]  # columns, rows
    assert ctx.plan is not None  # the plan step came before
    for each, (model, _) in zip(ctx.plan.passes, ctx.networks(), strict=False):
        for side, places in enumerate(ctx.engine.joints(model, each.source, ctx.tile)):
            border, whole = each.border[side], ctx.plan.result[side]
            found = (round((place - border) * whole / (each.source[side] - 2 * border)) for place in places)
            joints[side] |= {place for place in found if 0 < place < whole}
    faces = [face.face.box for face in ctx.faces or () if face.restored is not None]
    known = Known(tuple(sorted(joints[0])), tuple(sorted(joints[1])), tuple(faces))
    most = max(ctx.max_source_pixels, ctx.max_result_pixels)
    ctx.certificate = certify(ctx.data, ctx.target.read_bytes(), known, ctx.params.background, most, ctx.check)


def certify(
    source: bytes,
    result: bytes,
    known: Known,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = 1 << 40,
    check: Callable[[], None] = lambda: None,
) -> Certificate:
    """Compare two encoded pictures. `background`: 8-bit sRGB behind a transparent source, if the result has no alpha.
    `check` may raise to stop. Raises SourceUnreadable and SourceTooLarge."""
    try:
        ours, turned = _opened(source, max_pixels)
        theirs, result_turned = _opened(result, max_pixels)
        profiles = colour.profile(ours), colour.profile(theirs)
        converted = profiles[0] != profiles[1]
        if converted:
            ours, theirs = colour.to_srgb(ours), colour.to_srgb(theirs)
        if ours.hasalpha() and not theirs.hasalpha():
            ours = flattened(ours, background)
        samples: Samples = upright(ours.numpy().reshape(ours.height, ours.width, ours.bands), turned)
        if has_alpha(samples) and not has_real_alpha(samples):
            samples = samples[..., :-1]
        if samples.shape[2] < 3 <= theirs.bands:
            samples = samples[..., [0, 0, 0, *range(1, samples.shape[2])]]
        stream = _streamed(theirs, result_turned)
        figures, heat = measure(samples, stream, known, check)
    except pyvips.Error as error:
        raise why(error) from error
    h, w = samples.shape[:2]
    facts = {
        "version": VERSION,
        "source": {"sha256": hashlib.sha256(source).hexdigest(), "width": w, "height": h},
        "result": {"width": stream.width, "height": stream.height},
        "colours": "converted to sRGB" if converted else "as stored",
        "background": "#{:02x}{:02x}{:02x}".format(*background),
        "tiles": {"columns": list(known.columns), "rows": list(known.rows)},
        **figures,
    }
    return Certificate(facts, pyvips.Image.new_from_array(heat).pngsave_buffer(keep="none"))


def known_of(facts: Any) -> tuple[Known, tuple[int, int, int]]:
    """What a certificate says that the two files do not: tiles, faces and the background. Raises InvalidRequest if it
    is none of this version."""
    try:
        if facts["version"] != VERSION:
            raise InvalidRequest(f"the certificate is of version {facts['version']}; this program knows {VERSION}")
        red, green, blue = bytes.fromhex(facts["background"].removeprefix("#"))
        columns, rows = (tuple(int(each) for each in facts["tiles"][name]) for name in ("columns", "rows"))
        faces: list[Box] = []
        for each in facts["faces"]:
            left, top, right, bottom = (float(side) for side in each["box"])
            faces.append((left, top, right, bottom))
        if not np.isfinite(faces).all():
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest("this is no certificate of a result") from error
    return Known(columns, rows, tuple(faces)), (red, green, blue)


def differences(claimed: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Where a certificate says something else than what was computed, in sentences."""
    flat, other = dict(_flat(claimed)), dict(_flat(found))
    for name, value in other.items():
        stated = flat.get(name)
        tolerance = next((_TOLERANCES[part] for part in reversed(name.split(".")) if part in _TOLERANCES), 0)
        numbers = all(isinstance(each, int | float) for each in (stated, value))
        if stated != value and not (numbers and abs(stated - value) <= tolerance):
            yield f"{name}: the certificate says {stated}, computed was {value}"


def _flat(facts: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(facts, dict | list) and facts:
        for key, value in facts.items() if isinstance(facts, dict) else enumerate(facts):
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, facts


def _opened(data: bytes, max_pixels: int) -> tuple[pyvips.Image, int]:
    """Grey or RGB, as stored, and its orientation."""
    image = open_picture(data, max_pixels)
    turned = metadata.read(image, data).orientation
    return colour.to_rgb(image), turned


def _streamed(image: pyvips.Image, turned: int) -> Stream:
    """Upright. Only a picture that is stored upright, as results are, is read in bands."""
    if turned != 1:
        return Stream.of(upright(image.numpy().reshape(image.height, image.width, image.bands), turned))
    depth: Depth = np.uint16 if image.format == "ushort" else np.uint8

    def bands() -> Iterator[Samples]:
        region = pyvips.Region.new(image)
        for top in range(0, image.height, _BAND_ROWS):
            rows = min(_BAND_ROWS, image.height - top)
            fetched: Any = np.frombuffer(region.fetch(0, top, image.width, rows), depth)
            yield fetched.reshape(rows, image.width, image.bands)

    return Stream(image.width, image.height, image.bands, depth, bands())
