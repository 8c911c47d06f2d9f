"""From a caller's mask to the share of each pixel: which parts are kept, how soft the edge is, what files it takes."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.errors import BadSource
from server.job.mask import Mask
from server.pipeline.mask.shares import EDGE, rows, shares, softened

SIZE = (40, 30)
PICTURE = Mask(image="")


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half(mode: str = "L", white: Any = 255, black: Any = 0, size: tuple[int, int] = (8, 6)) -> Image.Image:
    """White on the left."""
    image = Image.new(mode, size, black)
    image.paste(white, (0, 0, size[0] // 2, size[1]))
    return image


LEFT_HALF = np.where(np.arange(40) < 20, 255, 0) * np.ones((30, 1), int)


def test_boxes_may_overlap_and_reach_over_the_border() -> None:
    found = shares(Mask(boxes=((5, 4, 10, 6), (10, 8, 10, 6), (35, 25, 900, 900), (40, 0, 5, 5))), b"", SIZE, 10**6)
    expected = np.zeros((30, 40), int)
    expected[4:10, 5:15] = expected[8:14, 10:20] = expected[25:, 35:] = 255
    assert (found == expected).all()


def test_keep_outside_is_the_opposite() -> None:
    box = ((5, 4, 10, 6),)
    inside, outside = (shares(Mask(boxes=box, keep=keep), b"", SIZE, 10**6) for keep in ("inside", "outside"))
    assert (outside == 255 - inside).all()
    assert not shares(Mask(boxes=()), b"", SIZE, 10**6).any()


@pytest.mark.parametrize(
    "data",
    [
        file(half()),
        file(half("1", 1)),
        file(half("RGB", "white", "black")),
        file(half().convert("P")),
        file(half("I;16", 65535, 0)),
        file(half("LA", (255, 255), (255, 0))),  # what is transparent counts as black
        file(half("RGBA", (255, 255, 255, 255), (0, 0, 0, 0))),
        file(half(size=(400, 300))),
        file(half(size=(2, 1))),
        file(half("RGB", (252, 255, 251), (4, 0, 5), (64, 48)), "JPEG", quality=95),  # JPEG's white is not quite white
        file(half("RGB", "white", "black", (64, 48)), "WEBP", lossless=True),
    ],
)
def test_a_picture_of_any_kind_and_size_is_stretched_to_the_source(data: bytes) -> None:
    assert (shares(PICTURE, data, SIZE, 10**6) == LEFT_HALF).all()


def test_a_turned_picture_is_put_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    stored = half(size=(48, 64)).rotate(90, expand=True)
    found = shares(PICTURE, file(stored.convert("RGB"), exif=exif), SIZE, 10**6)
    assert (found == LEFT_HALF).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (file(half(size=(64, 64)))[:60], ""),
        (file(Image.effect_noise((64, 64), 99))[:2000], ""),
        (file(half(size=(2000, 1000))), "takes at most"),
    ],
)
def test_a_bad_picture_is_an_error_of_the_mask(data: bytes, says: str) -> None:
    with pytest.raises(BadSource) as caught:
        shares(PICTURE, data, SIZE, 10**6)
    assert caught.value.field == "mask" and caught.value.message.startswith("the mask: ")
    assert says in caught.value.message


@pytest.mark.parametrize("result", [(160, 120), (133, 99), (40, 30), (17, 90), (7, 5)])
def test_what_is_kept_is_exact_and_the_edge_lies_outside(result: tuple[int, int]) -> None:
    kept = shares(Mask(boxes=((12, 10, 9, 8),)), b"", SIZE, 10**6)
    share = rows(softened(kept), result, 0, result[1])[..., 0]
    x, y = ((np.arange(n) + 0.5) * m / n for n, m in zip(result, SIZE, strict=True))
    away = np.maximum(np.maximum(12 - x, x - 21)[None], np.maximum(10 - y, y - 18)[:, None])
    assert (share[away < 0] == 1).all()
    assert not share[away > EDGE + 0.5].any()
    assert (share >= 0).all() and (share <= 1).all()
    if min(result) > 40:
        assert ((share > 0) & (share < 1)).any()
        assert np.abs(np.diff(share, axis=1)).max() < 0.2 * 40 / result[0] + 0.01  # soft


def test_the_edge_goes_on_at_the_other_side_of_a_picture_that_wraps() -> None:
    kept = shares(Mask(boxes=((34, 10, 6, 8),)), b"", SIZE, 10**6)
    assert not softened(kept)[:, 0].any() and not softened(kept, "y")[:, 0].any()
    assert (softened(np.roll(kept, 7, axis=1), "x") == np.roll(softened(kept, "x"), 7, axis=1)).all()
    assert softened(kept, "xy")[14, 0] == 255


def test_rows_are_the_same_in_any_bands() -> None:
    soft = softened(shares(Mask(boxes=((3, 4, 10, 6), (30, 20, 4, 4))), b"", SIZE, 10**6))
    whole = rows(soft, (133, 99), 0, 99)
    parts = [rows(soft, (133, 99), start, stop) for start, stop in ((0, 1), (1, 37), (37, 98), (98, 99))]
    assert (np.concatenate(parts) == whole).all()
