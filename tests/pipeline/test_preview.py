"""All creativities on one crop."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.config import Config
from server.images.metadata.provenance import COMPOSITE
from server.job.job import Params
from server.pipeline.preview import CROP, around, most_detailed
from server.weights.catalog import Catalog
from server.worker.upscaler import Upscaler


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    config = Config(data_dir=tmp_path_factory.mktemp("data"), device="cpu", dtype="fp32")
    return Upscaler(config, Catalog.of(config))


def noisy_corner(w: int, h: int) -> Image.Image:
    """Flat but for a patch of noise at the bottom right."""
    pixels = np.full((h, w, 3), 90, np.uint8)
    pixels[-(h // 4) :, -(w // 4) :] = np.random.default_rng(0).integers(60, 120, (h // 4, w // 4, 3))
    return Image.fromarray(pixels)


def test_the_crop_is_where_the_detail_is() -> None:
    samples = np.asarray(noisy_corner(200, 120))
    left, top, right, bottom = most_detailed(samples, (40, 30))
    assert (right - left, bottom - top) == (40, 30)
    assert left >= 145 and top >= 85


def test_the_crop_is_where_it_is_asked_for_within_the_picture() -> None:
    assert around((100, 60), (40, 30), (200, 120)) == (80, 45, 120, 75)
    assert around((0, 119), (40, 30), (200, 120)) == (0, 90, 40, 120)
    assert around((10**6, 10**6), (40, 30), (200, 120)) == (160, 90, 200, 120)


@pytest.mark.parametrize("size", [(120, 120), (7, 200), (1, 1)])
def test_the_crop_may_be_the_whole(size: tuple[int, int]) -> None:
    samples = np.zeros((size[1], size[0], 3), np.uint8)
    assert most_detailed(samples, size) == (0, 0, *size)


def test_large_pictures_are_searched_coarsely() -> None:
    samples = np.full((3000, 4000, 3), 90, np.uint8)
    samples[2000:2400, 3000:3400] = np.random.default_rng(0).integers(60, 120, (400, 400, 3))
    left, top, right, bottom = most_detailed(samples, (400, 400))
    assert (right - left, bottom - top) == (400, 400)
    assert abs(left - 3000) < 10 and abs(top - 2000) < 10


@pytest.mark.parametrize(("mode", "size"), [pytest.param("RGB", (160, 90), marks=pytest.mark.slow), ("LA", (48, 32))])
def test_the_sheet_shows_the_source_and_five_results(
    upscaler: Upscaler, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    noisy_corner(*size).convert(mode).save(buffer, "png")
    params = Params(scale=4.0, sweep=True, format="png")
    ctx = upscaler.run(upscaler.prepare(params, buffer.getvalue(), tmp_path / "sheet.png"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    w, h = min(CROP, size[0] * 4), min(CROP, size[1] * 4)
    assert ctx.plan is not None and sheet.shape[1::-1] == ctx.plan.result
    rows, columns = sheet.shape[0] // 2, sheet.shape[1] // 3
    assert columns == w and rows > h
    panels = [sheet[y + rows - h : y + rows, x : x + w] for y in (0, rows) for x in (0, w, 2 * w)]
    plain = panels[1]
    distances = [np.abs(panel - plain).mean() for panel in panels[2:]]
    assert distances == sorted(distances) and distances[0] > 0
    assert ctx.progress == 1
    # Its last panels are refined: label and signature say so, and both come from here.
    assert ctx.origin is not None and ctx.origin.digital_source_type == COMPOSITE
    assert COMPOSITE.encode() in (tmp_path / "sheet.png").read_bytes()
