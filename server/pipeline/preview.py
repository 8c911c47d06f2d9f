"""All creativities side by side on one crop, the caller's or the most detailed one, so that a caller can choose before
the whole picture is made."""

import copy
import math
from dataclasses import replace
from typing import cast

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from server.images.metadata.metadata import attach_metadata
from server.images.read.open import Samples
from server.images.samples import full_scale, to_8_bits
from server.images.write.save import save
from server.job.creativity import ANCHORS, NAMES
from server.job.plan import result_size
from server.job.tiling import Size
from server.pipeline import PICTURE_STEPS, Context, decode, expect, plan, take
from server.pipeline.base import Step
from server.rows.resample import gather, resample
from server.rows.stream import Stream

CROP = 512
"""Side of what is shown, in pixels of the result."""
_MARGIN = 40
"""Source pixels around the crop that the networks process but the sheet does not show."""
_CAPTION = 32
_LOOKED_AT = 4_000_000
_COLUMNS = 3
_INK, _PAPER = (235, 235, 235), (24, 24, 24)

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""


def run(ctx: Context) -> None:
    """Make the file `ctx.target`: a sheet with the crop at each whole creativity, the source first. Raises what the
    pipeline raises."""
    with ctx.clock("decode"):
        decode.run(ctx)
    ctx.animation = None  # the sheet is a still, of the first frame
    whole, (h, w) = ctx.samples, ctx.samples.shape[:2]
    result = result_size((w, h), ctx.params)
    ratio = result[0] / w, result[1] / h
    crop = min(w, _source(ratio[0])), min(h, _source(ratio[1]))
    at = ctx.params.sweep_at
    shown = most_detailed(whole, crop) if at is None else around(at, crop, (w, h))
    margin = min(_MARGIN, math.ceil(_MARGIN * 4 / max(ratio)))  # in the result no wider than at ×4
    seen = max(0, shown[0] - margin), max(0, shown[1] - margin), min(w, shown[2] + margin), min(h, shown[3] + margin)
    ctx.samples = np.ascontiguousarray(whole[seen[1] : seen[3], seen[0] : seen[2]])  # type: ignore[assignment]
    ctx.whole = result
    size = round((seen[2] - seen[0]) * ratio[0]), round((seen[3] - seen[1]) * ratio[1])
    left, top = round((shown[0] - seen[0]) * ratio[0]), round((shown[1] - seen[1]) * ratio[1])
    window = left, top, min(size[0], left + CROP), min(size[1], top + CROP)

    panels = [("source", _cut(to_8_bits(resample(ctx.samples, size, ctx.engine.kernel)), window))]
    ctx.expect("upscale", len(ANCHORS))
    for creativity in sorted(ANCHORS):
        part = _one(ctx, size, creativity)
        panels.append((f"{creativity:+g}  {NAMES[creativity]}", _cut(part, window)))
        ctx.advance("upscale", 1)
        ctx.frames_made += 1  # so that `network_pixels` counts all panels
    with ctx.clock("encode"):
        sheet = _sheet(panels)
        assert ctx.plan is not None
        ctx.plan = replace(ctx.plan, result=(sheet.width, sheet.height))
        known = ctx.metadata if whole.shape[2] >= 3 else replace(ctx.metadata, icc=None)  # the sheet has colours
        image = attach_metadata(pyvips.Image.new_from_array(np.asarray(sheet)), known, "strip", ctx.origin)
        save(image, ctx.target, replace(ctx.params, depth=None))


def _one(ctx: Context, size: Size, creativity: float) -> Samples:
    """The crop with its margin at this creativity: size × channels, 8 bits."""
    each = copy.copy(ctx)  # clocks and `check` are shared, results are not
    each.work, each.notes = {}, []
    each.params = replace(
        ctx.params, scale=None, target=None, megapixels=None, size=size, wrap="none", creativity=creativity, depth=None
    )
    take(each, [("plan", cast(Step, plan))])
    expect(each)
    take(each, PICTURE_STEPS)
    ctx.plan, ctx.loaded = each.plan, each.loaded
    assert isinstance(each.stream, Stream)
    return to_8_bits(gather(each.stream))


def most_detailed(samples: Samples, size: Size) -> Box:
    """The window of `size` (width, height) with the most detail: the largest sum of differences between neighbours,
    each limited to a tenth of the range, so that a single sharp edge does not decide."""
    # Of large pictures every second, third, … pixel: each takes forty bytes.
    step = max(1, math.isqrt(samples.shape[0] * samples.shape[1] // _LOOKED_AT))
    colours = samples[::step, ::step, : 3 if samples.shape[2] >= 3 else 1]
    grey = colours.mean(axis=2, dtype=np.float32) / full_scale(samples.dtype)
    energy = np.zeros_like(grey)
    energy[:, 1:] += np.minimum(np.abs(np.diff(grey, axis=1)), 0.1)
    energy[1:] += np.minimum(np.abs(np.diff(grey, axis=0)), 0.1)
    left, top = fullest(energy, (max(1, size[0] // step), max(1, size[1] // step)))
    left, top = min(left * step, samples.shape[1] - size[0]), min(top * step, samples.shape[0] - size[1])
    return left, top, left + size[0], top + size[1]


def around(at: tuple[int, int], size: Size, whole: Size) -> Box:
    """The window of `size` (width, height) with its middle at this pixel, or as near as the picture's borders allow."""
    left, top = (min(max(at[i] - size[i] // 2, 0), whole[i] - size[i]) for i in (0, 1))
    return left, top, left + size[0], top + size[1]


def fullest(energy: NDArray[np.float32], size: Size) -> tuple[int, int]:
    """(left, top) of the window of `size` (width, height) in H × W with the largest sum."""
    summed = np.pad(energy, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    w, h = size
    inside = summed[h:, w:] - summed[:-h, w:] - summed[h:, :-w] + summed[:-h, :-w]
    top, left = divmod(int(inside.argmax()), inside.shape[1])
    return left, top


def _source(ratio: float) -> int:
    return max(1, round(CROP / ratio))


def _cut(samples: Samples, box: Box) -> Samples:
    return samples[box[1] : box[3], box[0] : box[2]]


def _sheet(panels: list[tuple[str, Samples]]) -> Image.Image:
    """Rows of three, each with its name above it; transparent parts show the sheet's dark background."""
    h, w = panels[0][1].shape[:2]
    rows = -(-len(panels) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * w, rows * (h + _CAPTION)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for number, (name, samples) in enumerate(panels):
        x, y = number % _COLUMNS * w, number // _COLUMNS * (h + _CAPTION)
        draw.text((x + 8, y + _CAPTION // 2), name, fill=_INK, font=font, anchor="lm")
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[2]]
        picture = Image.fromarray(samples.squeeze() if mode == "L" else samples, mode).convert("RGBA")
        sheet.paste(picture, (x, y + _CAPTION), picture)
    return sheet
