"""What `make demo` shows is what it says: the same parts of the photo, bicubic beside the result."""

import numpy as np
import pytest
from PIL import Image

from demo.__main__ import CUT, ENLARGED, PHOTO, PLACES, side_by_side
from docs.pictures import SEEN


@pytest.fixture
def photo() -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB")


def test_the_photo_becomes_2k_in_one_pass_of_a_network_that_enlarges_by_four(photo: Image.Image) -> None:
    assert max(photo.size) * 4 == 2048


def test_both_columns_show_the_same_places_pixel_by_pixel(photo: Image.Image) -> None:
    size = photo.width * 4, photo.height * 4
    after = photo.resize(size, Image.Resampling.NEAREST)
    sheet = np.asarray(side_by_side(photo, after, "a network"))
    bicubic = np.asarray(photo.resize(size, Image.Resampling.BICUBIC))
    w, h = CUT
    rows = range(sheet.shape[0] - ENLARGED * h + 1)
    found = []
    for picture, column in ((bicubic, sheet[:, : ENLARGED * w]), (np.asarray(after), sheet[:, -ENLARGED * w :])):
        for x, y in ((round(left * size[0]), round(top * size[1])) for left, top in PLACES):
            part = picture[y : y + h, x : x + w]
            assert part.shape == (h, w, 3), "it lies within the picture"
            big = part.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
            (top,) = [row for row in rows if np.array_equal(column[row : row + ENLARGED * h], big)]
            found.append(top)
    assert found[:3] == found[3:] == sorted(found[:3])


def test_the_part_for_the_sheet_lies_within_the_photo(photo: Image.Image) -> None:
    left, top, right, bottom = SEEN
    assert 0 <= left < right <= photo.width and 0 <= top < bottom <= photo.height
    assert min(right - left, bottom - top) * 4 >= 512, "as large as what a sweep shows"
