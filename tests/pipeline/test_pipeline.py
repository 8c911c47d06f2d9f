"""Encoded bytes in, encoded bytes out: exact sizes, and nothing that the file holds gets lost by accident."""

import io
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from server.engine.engine import Engine
from server.errors import JobCancelled, ResultImpossible, SourceTooLarge, SourceUnreadable
from server.job.formats import FORMATS
from server.job.job import Params
from server.models import Model
from server.pipeline import PICTURE_STEPS, SOURCE_STEPS, Context, run
from tests import networks
from tests.conftest import draw


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return networks.load(networks.save(networks.nearest(), tmp_path_factory.mktemp("net") / "nearest.pth"))


@dataclass
class Outcome:
    ctx: Context
    result: bytes


def process(model: Model, data: bytes, params: Params, **settings: Any) -> Outcome:
    limits = {"max_source_pixels": 10**8, "max_result_pixels": 10**8} | settings
    with TemporaryDirectory() as folder:
        target = Path(folder) / "result"
        engine = Engine(networks.CPU)
        ctx = Context(params=params, data=data, target=target, engine=engine, load=networks.loader(model), **limits)
        run(ctx)
        return Outcome(ctx, target.read_bytes())


def opened(outcome: Outcome) -> Image.Image:
    return Image.open(io.BytesIO(outcome.result))


CASES = [(r.randint(1, 90), r.randint(1, 90), round(r.uniform(0.05, 10), 3)) for r in [Random(7)] for _ in range(20)]


@pytest.mark.parametrize(("w", "h", "scale"), CASES)
def test_scale_gives_exactly_the_rounded_size(model: Model, w: int, h: int, scale: float) -> None:
    outcome = process(model, draw(w, h), Params(scale=scale))
    assert opened(outcome).size == (max(1, round(w * scale)), max(1, round(h * scale)))


@pytest.mark.parametrize("target", ["2k", "4k", "8k"])
@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 33), (900, 7)])
def test_targets_make_the_long_edge_exact(model: Model, size: tuple[int, int], target: str) -> None:
    edge = {"2k": 2048, "4k": 4096, "8k": 8192}[target]
    if size == (60, 40) or target == "2k" or size == (900, 7):  # the others would only take longer
        outcome = process(model, draw(*size), Params(target=target, format="jpeg"))  # type: ignore[arg-type]
        ratio = edge / max(size)
        assert opened(outcome).size == (round(size[0] * ratio), round(size[1] * ratio))


@pytest.mark.parametrize("size", [(3000, 2000), (2000, 3000), (2048, 100)])
def test_larger_pictures_are_reduced_to_the_target_without_a_network(model: Model, size: tuple[int, int]) -> None:
    outcome = process(model, draw(*size), Params(target="2k"))
    ratio = 2048 / max(size)
    assert opened(outcome).size == (round(size[0] * ratio), round(size[1] * ratio))
    plan = outcome.ctx.plan
    assert outcome.ctx.loaded is None and plan is not None and plan.passes == ()


def test_size_may_change_the_aspect(model: Model) -> None:
    assert opened(process(model, draw(50, 40), Params(size=(123, 77)))).size == (123, 77)


def test_going_down_antialiases(model: Model) -> None:
    checks = np.indices((200, 200)).sum(axis=0) % 2 * 255
    buffer = io.BytesIO()
    Image.fromarray(checks.astype(np.uint8)).save(buffer, "PNG")
    result = np.asarray(opened(process(model, buffer.getvalue(), Params(scale=0.3))))
    assert result.std() < 3 and abs(result.mean() - 127.5) < 2


@pytest.mark.parametrize("format_", list(FORMATS))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_picture_comes_out_right_in_every_format(model: Model, mode: str, format_: str) -> None:
    gradient = Image.linear_gradient("L").resize((40, 24))
    if mode == "I;16":
        source = Image.fromarray(np.asarray(gradient).astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        source = gradient.convert(mode)
        source.putalpha(Image.linear_gradient("L").rotate(90).resize((40, 24)))
    else:
        source = gradient.convert(mode)
    buffer = io.BytesIO()
    source.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    outcome = process(model, buffer.getvalue(), Params(scale=3, format=format_))  # type: ignore[arg-type]
    result = opened(outcome)
    assert (result.format, result.size) == (format_.upper(), (120, 72))
    if mode == "CMYK":
        return  # without a profile there is no one right colour; that one comes out is what is tested
    expected = source if mode != "I;16" else gradient
    if format_ == "jpeg" and mode in ("RGBA", "LA"):
        white = Image.new("RGBA", source.size, "white")
        expected = Image.alpha_composite(white, source.convert("RGBA"))
    elif mode in ("RGBA", "LA"):
        alpha = np.asarray(result.convert("RGBA"))[..., 3].astype(float)
        assert abs(alpha.mean() - np.asarray(source)[..., -1].mean()) < 2
        if format_ == "gif":
            return  # whose pixels are seen or not
    if result.mode == "I;16":
        result = Image.fromarray((np.asarray(result) // 257).astype(np.uint8))
    ours = np.asarray(result.convert("L").resize((10, 6), Image.Resampling.BOX)).astype(float)
    theirs = np.asarray(expected.convert("L").resize((10, 6), Image.Resampling.BOX)).astype(float)
    limit = 12 if mode == "1" or (mode in ("RGBA", "LA") and format_ == "webp") else 4
    assert np.abs(ours - theirs).max() < limit


def test_grey_stays_grey_and_opaque_alpha_stays_opaque(model: Model) -> None:
    assert opened(process(model, draw(20, 20, "L"), Params(scale=2))).mode == "L"
    result = opened(process(model, draw(20, 20, "RGBA"), Params(scale=2)))
    assert result.mode == "RGBA" and np.asarray(result)[..., 3].min() == 255


def test_16_bit_rgb_stays_16_bit_in_png_only(model: Model) -> None:
    levels = np.linspace(0, 65535, 64 * 64 * 3).astype(np.uint16).reshape(64, 64, 3)
    data = pyvips.Image.new_from_array(levels, interpretation="rgb16").pngsave_buffer()
    deep = pyvips.Image.new_from_buffer(process(model, data, Params(scale=1.5)).result, "")
    assert deep.format == "ushort" and len(np.unique(deep.numpy())) > 4000
    assert (
        pyvips.Image.new_from_buffer(process(model, data, Params(scale=2, format="webp")).result, "").format == "uchar"
    )


def test_the_colour_profile_is_kept(model: Model) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 40, 40)).save(buffer, "PNG", icc_profile=profile)
    for format_ in (name for name, form in FORMATS.items() if form.profile):
        result = opened(process(model, buffer.getvalue(), Params(scale=2, format=format_)))  # type: ignore[arg-type]
        assert result.info["icc_profile"] == profile


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(model: Model, orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste((255, 255, 255), (0, 0, 10, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=100, subsampling=0, exif=exif)
    result = np.asarray(opened(process(model, buffer.getvalue(), Params(scale=2))).convert("L"))
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))).convert("L"))
    assert result.shape == (expected.shape[0] * 2, expected.shape[1] * 2)
    assert np.abs(result[::2, ::2].astype(int) - expected).mean() < 6


def test_a_truncated_file_is_refused_not_half_grey(model: Model) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "JPEG")
    data = buffer.getvalue()
    with pytest.raises(SourceUnreadable):
        process(model, data[: len(data) // 2], Params(scale=2))


def test_limits_are_refused_in_words(model: Model) -> None:
    with pytest.raises(SourceTooLarge, match="at most 100"):
        process(model, draw(20, 20), Params(scale=2), max_source_pixels=100)
    with pytest.raises(ResultImpossible, match="limit of 1000 pixels"):
        process(model, draw(20, 20), Params(scale=2), max_result_pixels=1000)
    with pytest.raises(ResultImpossible, match="use jpeg, png"):
        process(model, draw(2000, 3), Params(scale=9, format="webp"))


def test_check_runs_between_tiles_and_stops_the_run(model: Model, tmp_path: Path) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if ctx.progress > 0.5:
            raise JobCancelled("stop")

    data = draw(200, 200)
    ctx = Context(
        params=Params(scale=4),
        data=data,
        target=tmp_path / "result",
        engine=Engine(networks.CPU),
        load=networks.loader(model),
        max_source_pixels=10**8,
        max_result_pixels=10**8,
        tile=64,
        check=check,
    )
    with pytest.raises(JobCancelled):
        run(ctx)
    assert 0.5 < ctx.progress < 1 and calls > 8


def test_the_time_of_every_step_is_told(model: Model) -> None:
    before, after = (dict.fromkeys(name for name, _ in steps) for steps in (SOURCE_STEPS, PICTURE_STEPS))
    seconds = process(model, draw(20, 20), Params(scale=2)).ctx.seconds
    assert list(seconds) == [*before, "load", *after, "encode"]


def test_the_same_request_gives_the_same_bytes() -> None:
    model = networks.load(networks.BUNDLED)
    params = Params(scale=2.5)
    assert process(model, draw(50, 40), params).result == process(model, draw(50, 40), params).result
