"""The real RealESRGAN_x4plus, as it comes with the server: on small pictures, because it takes its time."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from server.config import Config
from server.errors import ModelNotFound
from server.job.job import Params
from server.pipeline import Context
from server.weights import package
from server.weights.catalog import Catalog
from server.worker.upscaler import Upscaler
from tests.paths import PHOTO
from tests.pictures import encoded

LARGE = "RealESRGAN_x4plus"

Upscale = Callable[..., tuple[NDArray[np.uint8], Context]]


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    config = Config(data_dir=tmp_path_factory.mktemp("data"), device="cpu", auto_limit_s=1000, real_esrgan="always")
    return Upscaler(config, Catalog.of(config))


@pytest.fixture
def upscale(upscaler: Upscaler, tmp_path: Path) -> Upscale:
    def upscale(samples: NDArray[np.uint8], **params: Any) -> tuple[NDArray[np.uint8], Context]:
        wanted = Params(**({"scale": 4.0} | params))
        ctx = upscaler.run(upscaler.prepare(wanted, encoded(samples, "png"), tmp_path / "result.png"))
        return np.asarray(Image.open(ctx.target)), ctx

    return upscale


def photo(w: int = 72, h: int = 56) -> NDArray[np.uint8]:
    """From the middle of the demo's photo."""
    with Image.open(PHOTO) as image:
        left, top = image.width // 2 - w // 2, image.height // 2 - h // 2
        return np.asarray(image.convert("RGB").crop((left, top, left + w, top + h)))


def enlarged(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    h, w = samples.shape[:2]
    return np.asarray(Image.fromarray(samples).resize((4 * w, 4 * h), Image.Resampling.BICUBIC))


def drift(result: NDArray[np.uint8], samples: NDArray[np.uint8]) -> float:
    """How far the mean colour has moved, in levels."""
    return float(abs(result.mean(axis=(0, 1)) - enlarged(samples).mean(axis=(0, 1))).mean())


def bare(upscaler: Upscaler, samples: NDArray[np.uint8], tile: int = 0) -> NDArray[np.uint8]:
    """The network alone, without what the pipeline does to its colours."""
    model = upscaler.load(Params(scale=4, model=LARGE)).model
    return np.concatenate(list(upscaler._engine.upscale(model, samples, dtype=np.uint8, tile=tile)))


@pytest.mark.slow
def test_tiles_do_not_show(upscaler: Upscaler) -> None:
    samples = photo(190, 60)
    assert abs(bare(upscaler, samples, tile=144).astype(int) - bare(upscaler, samples)).max() <= 2


@pytest.mark.slow
def test_it_runs_unasked_with_the_sources_colours(upscaler: Upscaler, upscale: Upscale) -> None:
    samples = photo()
    result, ctx = upscale(samples)
    assert ctx.loaded is not None and ctx.plan is not None
    assert (ctx.loaded.name, ctx.loaded.form, ctx.notes) == (LARGE, "package, fp16", [])
    assert drift(result, samples) <= 0.1 < drift(bare(upscaler, samples), samples)
    assert ctx.refinement is None and ctx.plan.networks == (LARGE,)


@pytest.mark.slow
def test_half_way_to_strict_is_the_mean_of_both_results(upscale: Upscale) -> None:
    samples = photo(40, 32)
    large, fidelity = upscale(samples)[0], upscale(samples, model="fidelity-x4")[0]
    mean, ctx = upscale(samples, creativity=-1)
    assert ctx.loaded is not None and ctx.loaded.name == f"fidelity-x4 0.5 + {LARGE} 0.5"
    assert abs(mean - (large.astype(float) + fidelity) / 2).max() <= 1.5
    assert abs(large.astype(int) - fidelity).max() > 20


def test_with_alpha_and_grey_it_runs_too(upscale: Upscale) -> None:
    samples = photo(24, 20)
    alpha = np.linspace(0, 255, 24, dtype=np.uint8)[None, :, None].repeat(20, axis=0)
    result, ctx = upscale(np.concatenate((samples, alpha), axis=2), creativity=-0.5)
    assert result.shape == (80, 96, 4) and ctx.loaded is not None and ctx.loaded.fidelity is not None
    assert upscale(samples[..., :1])[0].shape == (80, 96)


@pytest.mark.parametrize("creativity", [0, -0.5])
def test_a_grey_picture_that_is_stored_as_rgb_stays_grey(upscale: Upscale, creativity: float) -> None:
    grey = photo(24, 20)[..., :1]
    result = upscale(grey.repeat(3, axis=2), creativity=creativity)[0]
    assert result.shape == (80, 96, 3) and not np.ptp(result, axis=2).any()
    assert np.array_equal(result[..., 0], upscale(grey, creativity=creativity)[0])
    tinted = grey.repeat(3, axis=2)
    tinted[-1, -1, 0] ^= 1  # one sample is enough for it to have colours
    assert np.ptp(upscale(tinted, creativity=creativity)[0], axis=2).any()


def screen() -> NDArray[np.uint8]:
    image = Image.new("RGB", (200, 120), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    for row, words in enumerate(("Deinterlace video", "Output format: PNG", "Cancel        OK", "42.7 fps, 3 files")):
        draw.text((8, 6 + 28 * row), words, fill=(20, 20, 20), font=ImageFont.load_default(14))
    return np.asarray(image)


def test_a_clean_screen_is_left_to_the_faithful_network(upscale: Upscale) -> None:
    result, ctx = upscale(screen(), scale=2)
    assert ctx.loaded is not None and ctx.loaded.name == "fidelity-x4" and ctx.refinement is not None
    assert ctx.refinement.recipe["back_projection"] == 1 and len(ctx.notes) == 1 and "content: photo" in ctx.notes[0]
    for params in ({"content": "photo"}, {"creativity": 0.0}, {"model": LARGE}, {"model": "real-esrgan"}):
        cut = screen()[:24, :48]
        _, ctx = upscale(cut, **params)
        assert ctx.loaded is not None and ctx.loaded.name == LARGE and not ctx.notes
    _, ctx = upscale(photo(40, 32), content="text")
    assert ctx.loaded is not None and ctx.loaded.name == "fidelity-x4"


def test_beyond_the_time_limit_fidelity_runs_and_says_why(upscaler: Upscaler, tmp_path: Path) -> None:
    settings = upscaler._config.model_copy(update={"auto_limit_s": 0.0001})
    hurried = Upscaler(settings, Catalog.of(settings))
    ctx = hurried.prepare(Params(scale=4), encoded(photo(24, 20), "png"), tmp_path / "result.png")
    hurried.run(ctx)
    assert ctx.loaded is not None and ctx.loaded.name == "fidelity-x4"
    assert len(ctx.notes) == 1 and "UPSCALE_AUTO_LIMIT_S (0.0001)" in ctx.notes[0]


def test_without_the_package_all_still_runs_on_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "locate", lambda name, file: None)
    config = Config(data_dir=tmp_path, device="cpu", auto_limit_s=1000)
    upscaler = Upscaler(config, Catalog.of(config))
    upscaler.warm()
    for model in ("auto", "real-esrgan"):
        ctx = upscaler.prepare(Params(scale=4, model=model), encoded(photo(24, 20), "png"), tmp_path / "result.png")
        upscaler.run(ctx)
        assert ctx.loaded is not None and ctx.loaded.name == "fidelity-x4"
        assert len(ctx.notes) == 1 and "not installed" in ctx.notes[0]
    with pytest.raises(ModelNotFound, match="weights pull RealESRGAN_x4plus"):
        upscaler.load(Params(scale=4, model=LARGE))


def test_the_network_that_went_away_says_what_to_ask_for(upscaler: Upscaler) -> None:
    with pytest.raises(ModelNotFound, match="perceptual-x4 is no longer part of the server: ask for RealESRGAN_x4plus"):
        upscaler.load(Params(scale=4, model="perceptual-x4"))


def test_speed_is_measured_once_and_kept(upscaler: Upscaler) -> None:
    rates = upscaler.rates()
    assert rates["fidelity-x4"] > rates[LARGE] > 0 and rates["refiner"] > 0
    again = Upscaler(upscaler._config, upscaler._catalog)
    assert again.rates() == rates


def test_a_file_that_is_no_picture_is_refused_before_any_network_runs(upscaler: Upscaler, tmp_path: Path) -> None:
    ctx = upscaler.prepare(Params(scale=4), b"no picture", tmp_path / "result.png")
    with pytest.raises(Exception, match="picture"):
        upscaler.run(ctx)
    assert ctx.loaded is None and ctx.stage == "loading"


def test_the_result_keeps_16_bits(upscale: Upscale, upscaler: Upscaler, tmp_path: Path) -> None:
    ramp = np.linspace(9000, 50000, 20 * 24).reshape(20, 24).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "png")
    ctx = upscaler.run(upscaler.prepare(Params(scale=4), buffer.getvalue(), tmp_path / "deep.png"))
    result = np.asarray(Image.open(ctx.target))
    assert result.dtype == np.int32 or result.dtype == np.uint16
    assert len(np.unique(result)) > 1000
