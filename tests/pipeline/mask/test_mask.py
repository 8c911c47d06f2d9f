"""A mask through the whole pipeline: what it keeps is the result of creativity −2 to the last bit."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageSequence

from server.config import Config
from server.errors import BadSource
from server.job.job import Params
from server.job.mask import Mask
from server.pipeline import Context
from server.pipeline.mask.shares import EDGE
from server.weights.catalog import Catalog
from server.worker.indexer import index
from server.worker.upscaler import Upscaler
from tests import networks
from tests.pictures import encoded, scene, to_vips

W, H = 48, 36
BOX = (14, 12, 11, 9)


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    """With the bundled networks, and a small one of ×4 whose result is far from theirs."""
    folder = tmp_path_factory.mktemp("weights")
    networks.save(networks.srvgg(), folder / "4x-other.pth")
    index(folder)
    config = Config(data_dir=folder, weights_dir=folder, device="cpu", auto_limit_s=0)
    return Upscaler(config, Catalog.of(config))


def make(upscaler: Upscaler, tmp_path: Path, data: bytes, picture: bytes = b"", **params: Any) -> Context:
    ctx = upscaler.prepare(Params(**{"model": "4x-other", "scale": 4.0, **params}), data, tmp_path / "result", picture)
    return upscaler.run(ctx)


def samples(ctx: Context) -> Any:
    image = pyvips.Image.new_from_file(str(ctx.target))
    return image.numpy().reshape(image.height, image.width, -1).astype(int)


def where(result: tuple[int, int]) -> tuple[Any, Any]:
    """Which pixels of the result are in the box, and which are beyond its soft edge."""
    x, y = ((np.arange(n) + 0.5) * m / n for n, m in zip(result, (W, H), strict=True))
    left, top, width, height = BOX
    away = np.maximum(np.maximum(left - x, x - left - width)[None], np.maximum(top - y, y - top - height)[:, None])
    return away < 0, away > EDGE + 0.5


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"scale": 4.0}, {}),
    ({"scale": 3.3}, {}),
    ({"scale": 9.0}, {}),  # two passes
    ({"size": (100, 190), "scale": None}, {}),
    ({"creativity": -1.0}, {}),
    ({"creativity": 1.0, "scale": 2.0, "seed": 3}, {}),
    ({"model": "fidelity-x4"}, {}),
    ({"grain": 1.0}, {}),
    ({"wrap": "xy"}, {}),
    ({}, {"dtype": np.uint16}),
    ({}, {"channels": 1}),
    ({}, {"channels": 4}),
]


@pytest.mark.parametrize(("params", "source"), CASES)
def test_inside_is_exactly_the_strict_result_and_outside_exactly_the_other(
    upscaler: Upscaler, tmp_path: Path, params: dict[str, Any], source: dict[str, Any]
) -> None:
    data = to_vips(scene(W, H, **source)).pngsave_buffer()
    strict = samples(make(upscaler, tmp_path, data, **{**params, "creativity": -2.0}))
    asked = samples(make(upscaler, tmp_path, data, **params))
    ctx = make(upscaler, tmp_path, data, **params, mask=Mask(boxes=(BOX,)))
    found = samples(ctx)
    inside, outside = where(found.shape[1::-1])
    assert (found[inside] == strict[inside]).all() and (found[outside] == asked[outside]).all()
    assert (strict[inside] != asked[inside]).any() and (strict[outside] != asked[outside]).any()
    assert (found >= np.minimum(strict, asked)).all() and (found <= np.maximum(strict, asked)).all()
    assert ctx.progress == 1 and ctx.loaded is not None and ctx.loaded.name.endswith(", masked fidelity-x4")


def test_keep_outside_protects_all_but_the_box(upscaler: Upscaler, tmp_path: Path) -> None:
    data, box = encoded(scene(W, H), "png"), (8, 6, 30, 24)
    strict = samples(make(upscaler, tmp_path, data, creativity=-2.0))
    asked = samples(make(upscaler, tmp_path, data))
    found = samples(make(upscaler, tmp_path, data, mask=Mask(boxes=(box,), keep="outside")))
    middle = np.zeros(found.shape[:2], bool)
    middle[4 * (6 + EDGE + 1) : 4 * (30 - EDGE - 1), 4 * (8 + EDGE + 1) : 4 * (38 - EDGE - 1)] = True
    around = np.ones_like(middle)
    around[24:120, 32:152] = False
    assert (found[around] == strict[around]).all() and (found[middle] == asked[middle]).all()
    assert (strict[middle] != asked[middle]).any()


def test_a_picture_does_what_a_box_does(upscaler: Upscaler, tmp_path: Path) -> None:
    data = encoded(scene(W, H), "png")
    white = np.zeros((H, W, 1), np.uint8)
    white[BOX[1] : BOX[1] + BOX[3], BOX[0] : BOX[0] + BOX[2]] = 255
    one = samples(make(upscaler, tmp_path, data, mask=Mask(boxes=(BOX,))))
    large = encoded(white.repeat(3, 0).repeat(3, 1), "png")
    other = samples(make(upscaler, tmp_path, data, large, mask=Mask(image="blob")))
    assert (one == other).all()


@pytest.mark.parametrize(
    ("mask", "creativity", "name", "note"),
    [
        (Mask(boxes=()), 0.0, "4x-other", "the mask keeps no part of the picture"),
        (Mask(boxes=((50, 50, 5, 5),)), 0.0, "4x-other", "the mask keeps no part of the picture"),
        (Mask(boxes=((0, 0, 99, 99),)), -2.0, "fidelity-x4", "the mask keeps the whole picture"),
        (Mask(boxes=(), keep="outside"), -2.0, "fidelity-x4", "the mask keeps the whole picture"),
    ],
)
def test_one_result_is_made_where_the_mask_covers_nothing_or_everything(
    upscaler: Upscaler, tmp_path: Path, mask: Mask, creativity: float, name: str, note: str
) -> None:
    data = encoded(scene(W, H), "png")
    plain = make(upscaler, tmp_path, data, creativity=creativity)
    expected, done = samples(plain), sum(part.done for part in plain.work.values())
    ctx = make(upscaler, tmp_path, data, mask=mask)
    assert (samples(ctx) == expected).all()
    assert ctx.loaded is not None and ctx.loaded.name == name and note in ctx.notes
    assert sum(part.done for part in ctx.work.values()) == done


def test_a_strict_job_needs_no_second_result(upscaler: Upscaler, tmp_path: Path) -> None:
    data = encoded(scene(W, H), "png")
    ctx = make(upscaler, tmp_path, data, creativity=-2.0, mask=Mask(boxes=(BOX,)))
    assert ctx.kept is None and ctx.loaded is not None and ctx.loaded.name == "fidelity-x4"


def test_where_no_network_runs_a_mask_changes_nothing(upscaler: Upscaler, tmp_path: Path) -> None:
    data = encoded(scene(W, H), "png")
    plain = samples(make(upscaler, tmp_path, data, scale=0.5, model="auto"))
    assert (samples(make(upscaler, tmp_path, data, scale=0.5, model="auto", mask=Mask(boxes=(BOX,)))) == plain).all()


def test_all_frames_have_the_same_mask(upscaler: Upscaler, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(scene(W, H), shift, axis=1)) for shift in (0, 9, 20)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], duration=100)
    wanted: dict[str, Any] = {"animation": "keep", "format": "webp", "lossless": True}
    masked = make(upscaler, tmp_path, buffer.getvalue(), **wanted, mask=Mask(boxes=(BOX,)))
    assert masked.progress == 1
    found = shown(masked)
    strict = shown(make(upscaler, tmp_path, buffer.getvalue(), **wanted, creativity=-2.0))
    asked = shown(make(upscaler, tmp_path, buffer.getvalue(), **wanted))
    inside, outside = where((4 * W, 4 * H))
    assert len(found) == len(strict) == 3
    for one, kept, other in zip(found, strict, asked, strict=True):
        assert (one[inside] == kept[inside]).all() and (one[outside] == other[outside]).all()


def shown(ctx: Context) -> list[Any]:
    with Image.open(ctx.target) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def test_a_bad_picture_of_a_mask_is_refused(upscaler: Upscaler, tmp_path: Path) -> None:
    with pytest.raises(BadSource) as caught:
        make(upscaler, tmp_path, encoded(scene(W, H), "png"), b"GIF89a nothing", mask=Mask(image="blob"))
    assert caught.value.field == "mask"
