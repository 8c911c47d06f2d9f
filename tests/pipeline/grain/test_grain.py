"""Grain like the source's: as strong by brightness, as coarse and as coloured; nowhere where there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from server.engine.engine import Engine
from server.images.read.open import Samples
from server.job.job import Params
from server.models import Model
from server.pipeline import Context, run
from server.pipeline.grain.measure import Grain, measure
from server.pipeline.grain.step import NONE_FOUND, grained
from tests import networks
from tests.conftest import draw
from tests.paths import ROOT
from tests.pictures import encoded

TONES = (0.12, 0.3, 0.5, 0.7, 0.88)


def fields(channels: int = 3, side: int = 96) -> Any:
    """Side by side, one field of each brightness."""
    return np.concatenate([np.full((side, side, channels), tone) for tone in TONES], axis=1)


def noise(shape: tuple[int, ...], blur: float, shared: float, seed: int = 0) -> Any:
    """With a variance of 1; `shared`: the correlation between the colours."""
    rng = np.random.default_rng(seed)
    made = np.sqrt(shared) * rng.standard_normal((*shape[:2], 1)) + np.sqrt(1 - shared) * rng.standard_normal(shape)
    made = gaussian_filter(made, (blur, blur, 0)) if blur else made
    return made / made.std()


def stated(values: Any, dtype: Any = np.uint8) -> Samples:
    top = np.iinfo(dtype).max
    samples: Samples = np.rint(np.clip(values, 0, 1) * top).astype(dtype)
    return samples


def strength(tone: Any) -> Any:
    """Of the made noise: from 2.5 to 7 levels of 255."""
    return (2 + 6 * tone) / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("blur", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_its_strength_follows_that_of_the_source_at_every_brightness(channels: int, blur: float, dtype: Any) -> None:
    clean = fields(channels)
    source = stated(clean + strength(clean) * noise(clean.shape, blur, 0.7), dtype)
    grain = measure(source)
    assert grain is not None and grain.blur == pytest.approx(blur, abs=0.25)
    plain = stated(fields(channels, 192), dtype)
    found = (grained(plain, 0, grain, key=1).astype(float) - plain) / np.iinfo(dtype).max
    for number, tone in enumerate(TONES):
        field = found[:, number * 192 : (number + 1) * 192]
        assert field.std() == pytest.approx(strength(tone), rel=0.2)
        assert abs(field.mean()) < 0.05 * strength(tone)
        assert field.std(axis=(0, 1)) == pytest.approx(np.full(channels, strength(tone)), rel=0.2)
        if channels == 3:
            assert np.corrcoef(field[..., 0].ravel(), field[..., 2].ravel())[0, 1] == pytest.approx(0.7, abs=0.1)


def test_noise_that_is_added_to_a_photo_is_found_beside_its_own() -> None:
    photo = np.asarray(Image.open(ROOT / "demo" / "photo.jpg").convert("RGB")) / 255
    own, more = measure(stated(photo)), measure(stated(photo + 12 / 255 * noise(photo.shape, 0.6, 0.5)))
    assert own is not None and more is not None
    before, after = (np.sqrt((each.mixes**2).sum(axis=2)).mean() * 255 for each in (own, more))
    assert before < 6
    assert after == pytest.approx(np.hypot(12, before), rel=0.2)


def drawing() -> Image.Image:
    image = Image.new("RGB", (400, 300), (240, 230, 200))
    pen = ImageDraw.Draw(image)
    for each in range(12):
        place = (20 + each * 25, 40 + each * 8, 120 + each * 25, 160 + each * 8)
        pen.ellipse(place, fill=(20 * each, 255 - 20 * each, 128), outline=(10, 10, 10), width=3)
    return image.resize((800, 600), Image.Resampling.BICUBIC).resize((400, 300), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    "samples",
    [
        np.asarray(drawing()),
        stated(np.linspace(0.1, 0.9, 400)[None, :, None] * np.ones((300, 1, 3))),  # a gradient has steps of one level
        np.full((64, 64, 3), 90, np.uint8),
        np.zeros((64, 64, 1), np.uint8),
        np.full((64, 64, 3), 255, np.uint8),
        stated(0.5 + 0.03 * noise((8, 200, 3), 0, 0)),  # too small to tell
        np.dstack([stated(0.5 + 0.03 * noise((64, 64, 3), 0, 0)), np.zeros((64, 64, 1), np.uint8)]),  # transparent
    ],
)
def test_a_clean_source_has_none(samples: Any) -> None:
    assert measure(samples) is None


def test_white_and_black_stay_as_they_are_and_nothing_is_cut_off() -> None:
    grain = Grain(np.float32([0.2, 0.8]), np.float32([np.eye(3) * 0.03] * 2), 0.5)
    plain = stated(np.repeat(np.linspace(0, 1, 256)[None, :, None], 200, 0) * np.ones((1, 1, 3)))
    found = grained(plain, 0, grain, key=3)
    assert (found[:, 0] == 0).all() and (found[:, -1] == 255).all()
    assert np.abs(found.mean(axis=(0, 2)) - np.arange(256)).max() < 1.5
    assert found[:, 128].std() == pytest.approx(0.03 * 255, rel=0.1)


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_bands_do_not_matter_and_the_seed_does(blur: float) -> None:
    grain = Grain(np.float32([0.5]), np.float32([np.eye(3) * 0.05]), blur)
    plain = np.full((150, 211, 3), 120, np.uint8)
    whole = grained(plain, 0, grain, key=9)
    for cuts in ([0, 1, 2, 150], [0, 64, 150], [0, 149, 150]):
        parts = [grained(plain[a:b], a, grain, key=9) for a, b in zip(cuts, cuts[1:], strict=False)]
        assert (np.concatenate(parts) == whole).all()
    assert (grained(plain, 0, grain, key=10) != whole).mean() > 0.5


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_it_has_no_pattern(blur: float) -> None:
    """No place resembles another, and no frequency stands out."""
    grain = Grain(np.float32([0.5]), np.float32([[[0.05]]]), blur)
    found = grained(np.full((512, 512, 1), 32768, np.uint16), 0, grain, key=4)[..., 0].astype(float)
    power = np.abs(np.fft.fft2(found - found.mean())) ** 2
    related = np.fft.ifft2(power).real / power.mean()
    related[:4, :4] = related[-3:, :4] = related[:4, -3:] = related[-3:, -3:] = 0
    assert np.abs(related).max() < 0.03  # of 262,144 independent places the largest is about 0.01
    expected = gaussian_filter(power, 8, mode="wrap")
    assert (power / expected).max() < 25  # of as many exponential values the largest is about 12


# --- through the pipeline -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return networks.load(networks.save(networks.nearest(), tmp_path_factory.mktemp("net") / "nearest.pth"))


def made(model: Model, folder: Path, data: bytes, **params: Any) -> tuple[Context, Any]:
    ctx = Context(
        params=Params(**{"scale": 2, **params}),
        data=data,
        target=folder / "result",
        engine=Engine(networks.CPU),
        load=networks.loader(model),
        max_source_pixels=10**8,
        max_result_pixels=10**8,
    )
    run(ctx)
    return ctx, np.asarray(Image.open(folder / "result")).astype(int)


def test_half_of_the_grain_is_half_as_strong(model: Model, tmp_path: Path) -> None:
    clean = fields()
    data = encoded(stated(clean + 5 / 255 * noise(clean.shape, 0.5, 0.5)), "png")
    plain = made(model, tmp_path, data)[1]
    whole, half = ((made(model, tmp_path, data, grain=grain)[1] - plain)[:, 250:700].std() for grain in (1.0, 0.5))
    assert whole == pytest.approx(5, rel=0.2) and half == pytest.approx(whole / 2, rel=0.1)


def test_a_job_with_a_seed_has_the_same_grain_with_any_tiles(model: Model, tmp_path: Path) -> None:
    data = encoded(stated(0.5 + 0.03 * noise((60, 80, 3), 0.5, 0.5)), "png")
    one, same, other, none = (
        made(model, tmp_path, data, grain=1.0, seed=1)[1],
        made(model, tmp_path, data, grain=1.0, seed=1)[1],
        made(model, tmp_path, data, grain=1.0, seed=2)[1],
        made(model, tmp_path, data, seed=1)[1],
    )
    assert (one == same).all() and (one != other).any() and (one != none).any()


def test_a_note_says_that_there_is_no_grain(model: Model, tmp_path: Path) -> None:
    ctx, found = made(model, tmp_path, draw(), grain=1.0)
    assert ctx.notes == [NONE_FOUND]
    assert (found == made(model, tmp_path, draw())[1]).all()


def test_alpha_has_no_grain(model: Model, tmp_path: Path) -> None:
    samples = np.dstack([stated(0.5 + 0.03 * noise((60, 80, 3), 0.5, 0.5)), np.full((60, 80, 1), 255, np.uint8)])
    samples[:20, :, 3] = 100
    data = encoded(samples, "png")
    plain, found = made(model, tmp_path, data)[1], made(model, tmp_path, data, grain=1.0)[1]
    assert (plain[..., 3] == found[..., 3]).all() and (plain[..., :3] != found[..., :3]).any()


def test_each_frame_has_grain_of_its_own(model: Model, tmp_path: Path) -> None:
    still = Image.fromarray(stated(0.5 + 0.03 * noise((60, 80, 3), 0.5, 0.5)))
    other = still.copy()
    other.putpixel((0, 0), (0, 0, 0))
    still.save(tmp_path / "moving.png", save_all=True, append_images=[other], duration=100)
    data = (tmp_path / "moving.png").read_bytes()
    ctx, _ = made(model, tmp_path, data, grain=1.0, animation="keep", format="webp", lossless=True)
    with Image.open(ctx.target) as image:
        assert image.n_frames == 2
        first = np.asarray(image.convert("RGB")).astype(int)
        image.seek(1)
        second = np.asarray(image.convert("RGB")).astype(int)
    assert (first[8:] != second[8:]).mean() > 0.5
