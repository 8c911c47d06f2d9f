"""Faces pasted into the result, against facexlib's own pasting and against what is right."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from server.faces import Paste, RestoredFace
from server.faces.align import align
from server.faces.base import SIDE, TEMPLATE, inverse, transform
from server.images.read.open import Samples
from server.images.samples import Floats
from tests.faces import networks
from tests.faces.facexlib_reference import ALL, helper, paste
from tests.faces.test_align import at, face


def restored(landmarks: Any, image: Floats, mask: Floats | None = None) -> RestoredFace:
    _, matrix = align(np.zeros((8, 8, 3), np.uint8), face(landmarks))
    return RestoredFace(matrix, image, mask)


def flat(value: float) -> Floats:
    return np.full((SIDE, SIDE, 3), value, np.float32)


ONES = np.ones((SIDE, SIDE), np.float32)


def pasted(
    canvas: Samples, faces: list[RestoredFace], source: Any = None, strength: float = 1.0, rows: int = 37
) -> Any:
    """In bands, as the pipeline does. `source`: size of the picture that the faces are from, else the canvas's."""
    size = (canvas.shape[1], canvas.shape[0])
    result = canvas.copy()
    work = Paste(faces, source or size, size, strength)
    for y in range(0, len(result), rows):
        work.into(result[y : y + rows], y)
    return result


@pytest.mark.parametrize(
    ("name", "upscale"), [("two_people.jpg", 2), ("astronaut_collins.png", 4), ("partial_face.jpg", 1.5)]
)
def test_the_same_as_facexlib_with_its_mistakes_put_right(name: str, upscale: float) -> None:
    """Real faces, some of them cut by the border; restored to something else."""
    samples = networks.picture(name)
    # Of an odd side at 1.5 they make a size that is not 1.5 times as large, and still paste as if it were.
    samples = samples[: samples.shape[0] // 2 * 2, : samples.shape[1] // 2 * 2]
    theirs = helper(upscale)
    theirs.read_image(np.ascontiguousarray(samples[..., ::-1]))
    theirs.get_face_landmarks_5(eye_dist_threshold=5)
    theirs.align_warp_face()
    faces = [crop // 2 + 64 for crop in theirs.cropped_faces]
    for each in faces:
        theirs.add_restored_face(each)
    theirs.get_inverse_affine()
    inverses = [matrix.copy() for matrix in theirs.inverse_affine_matrices]  # it changes them
    size = int(samples.shape[1] * upscale), int(samples.shape[0] * upscale)
    canvas = np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_LANCZOS4))
    background = np.ascontiguousarray(canvas[..., ::-1])

    as_they_do = paste(background, faces, inverses, upscale)
    np.testing.assert_array_equal(as_they_do, theirs.paste_faces_to_input_image(upsample_img=background))

    wanted = paste(background, faces, inverses, upscale, right=ALL)[..., ::-1].astype(int)
    ours = pasted(
        canvas,
        [
            RestoredFace(align(samples, face(points))[1], image[..., ::-1] / np.float32(255), None)
            for points, image in zip(theirs.all_landmarks_5, faces, strict=True)
        ],
        source=(samples.shape[1], samples.shape[0]),
    ).astype(int)
    assert (np.abs(wanted - canvas).max(2) > 10).mean() > 0.01  # something has happened
    assert np.abs(ours - wanted).max() <= 1


def test_facexlib_makes_faces_of_16_bits_black() -> None:
    """Why ours does not go through it; and the next. When they fail it has been repaired: say so in paste.py."""
    samples = networks.picture("astronaut_collins.png")[..., ::-1].astype(np.uint16) * 257
    theirs = prepared(helper(1), samples)
    result = theirs.paste_faces_to_input_image(upsample_img=samples)
    x, y = np.rint(theirs.all_landmarks_5[0][2]).astype(int)
    assert samples[y, x].max() > 30000
    assert result[y, x].max() < 300


def test_facexlib_fails_on_grey_pictures() -> None:
    samples = networks.picture("astronaut_collins.png")[..., :1]
    theirs = prepared(helper(1, parse=True), samples[..., 0])
    theirs.face_parse = lambda image: (torch.zeros(1, 19, SIDE, SIDE),)  # what it takes the pixels for is all the same
    with pytest.raises(ValueError, match="broadcast"):
        theirs.paste_faces_to_input_image(upsample_img=samples[..., 0])


def prepared(theirs: Any, samples: Any) -> Any:
    """Faces found, and "restored" to what they are."""
    theirs.read_image(samples)
    theirs.get_face_landmarks_5()
    theirs.align_warp_face()
    theirs.add_restored_face(theirs.cropped_faces[0])
    theirs.get_inverse_affine()
    return theirs


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_picture(dtype: Any, channels: int) -> None:
    top = np.iinfo(dtype).max
    canvas = np.full((200, 240, channels), top // 5, dtype)
    image = flat(0) + np.array([0.5, 0.8, 0.2], np.float32)
    result = pasted(canvas, [restored(TEMPLATE / 4 + 30, image, ONES)])
    x, y = np.rint(TEMPLATE.mean(0) / 4 + 30).astype(int)
    colour = [0.5, 0.8, 0.2] if channels >= 3 else [0.299 * 0.5 + 0.587 * 0.8 + 0.114 * 0.2]
    wanted = [*colour, top // 5 / top] if channels in (2, 4) else colour
    np.testing.assert_array_equal(result[y, x], np.rint(np.array(wanted) * top))
    if channels in (2, 4):
        np.testing.assert_array_equal(result[..., -1], canvas[..., -1])


def test_only_the_face_s_own_pixels_change() -> None:
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 65536, (300, 400, 3)).astype(np.uint16)
    one = restored(TEMPLATE / 4 + 100, flat(0.5), ONES)
    result = pasted(canvas, [one])
    corners = transform(inverse(one.matrix), np.array([[0, 0], [SIDE - 1.0, SIDE - 1]]))
    left, top = np.floor(corners[0]).astype(int)
    right, bottom = np.ceil(corners[1]).astype(int) + 1
    changed = (result != canvas).any(2)
    assert changed[top:bottom, left:right].mean() > 0.95
    changed[top:bottom, left:right] = False
    assert not changed.any()


def test_a_face_lies_where_it_was_found_whatever_the_result_s_size() -> None:
    """A bright dot on the nose of a dark face, in pictures enlarged, reduced, and stretched."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    nose = TEMPLATE[2]
    dot = np.exp(-((columns - nose[0]) ** 2 + (rows - nose[1]) ** 2) / (2 * 12**2)).astype(np.float32)
    landmarks = TEMPLATE / 4 + 50
    for width, height in ((240, 240), (960, 960), (333, 333), (480, 720), (120, 120)):
        canvas = np.zeros((height, width, 1), np.uint16)
        result = pasted(canvas, [restored(landmarks, np.dstack([dot] * 3), ONES)], source=(240, 240))[..., 0]
        share = result / result.sum()
        y, x = (np.indices(share.shape) * share).sum((1, 2))
        scale = np.array([width, height]) / 240
        np.testing.assert_allclose((x, y), (landmarks[2] + 0.5) * scale - 0.5, atol=0.02)


def test_a_face_shown_small_is_filtered() -> None:
    """Stripes finer than the result's pixels become grey, not coarser stripes."""
    stripes = flat(0)
    stripes[:, ::2] = 1
    result = pasted(np.zeros((100, 100, 1), np.uint8), [restored(TEMPLATE / 10 + 20, stripes, ONES)])
    middle = result[35:55, 35:55, 0]
    assert np.abs(middle.astype(int) - 128).max() <= 2


def test_strength_is_a_blend() -> None:
    canvas = np.full((200, 200, 3), 51, np.uint8)
    faces = [restored(TEMPLATE / 4 + 30, flat(1.0), ONES)]
    x, y = np.rint(TEMPLATE[2] / 4 + 30).astype(int)
    assert [pasted(canvas, faces, strength=share)[y, x, 0] for share in (0.0, 0.5, 1.0)] == [51, 153, 255]
    np.testing.assert_array_equal(pasted(canvas, faces, strength=0), canvas)


def test_a_mask_of_its_own_counts_instead_of_the_square() -> None:
    left_half = ONES.copy()
    left_half[:, SIDE // 2 :] = 0
    canvas = np.zeros((200, 200, 1), np.uint8)
    result = pasted(canvas, [restored(TEMPLATE / 4 + 30, flat(1.0), left_half)])
    centre = round(SIDE / 2 / 4 + 30)
    assert (result[80:90, centre - 20 : centre - 2] == 255).all() and not result[80:90, centre + 2 :].any()


@pytest.mark.parametrize("size", [(2, 2), (7, 3), (40, 40)])
def test_a_result_of_a_few_pixels(size: tuple[int, int]) -> None:
    width, height = size
    canvas = np.zeros((height, width, 3), np.uint8)
    assert pasted(canvas, [restored(at(60).landmarks, flat(1.0))], source=(200, 200)).shape == canvas.shape


def test_a_face_beyond_the_result_changes_nothing() -> None:
    canvas = np.zeros((50, 50, 3), np.uint8)
    assert not pasted(canvas, [restored(TEMPLATE / 4 + 5000, flat(1.0))]).any()
