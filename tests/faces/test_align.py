"""Faces cut out as facexlib cuts them out, whatever the picture is made of."""

from typing import Any

import numpy as np
import pytest

from server.faces.align import align, unfit
from server.faces.base import SIDE, TEMPLATE, Face, transform
from tests.faces import facexlib_reference, networks


def face(landmarks: Any) -> Face:
    return Face((0, 0, 1, 1), 1.0, np.asarray(landmarks, np.float64))


def at(eye_distance: float) -> Face:
    """Upright, seen from the front."""
    return face(TEMPLATE * eye_distance / 125.9 + 20)


@pytest.mark.parametrize("name", ["two_people.jpg", "astronaut_collins.png", "partial_face.jpg"])
def test_crops_are_facexlib_s(name: str) -> None:
    samples = networks.picture(name)
    helper = facexlib_reference.helper(2)
    helper.read_image(np.ascontiguousarray(samples[..., ::-1]))
    assert helper.get_face_landmarks_5(eye_dist_threshold=5) > 0
    helper.align_warp_face()
    for landmarks, theirs in zip(helper.all_landmarks_5, helper.cropped_faces, strict=True):
        crop, _ = align(samples, face(landmarks))
        difference = np.abs(crop.astype(int) - theirs[..., ::-1])
        assert theirs.std() > 20
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_landmarks_come_to_lie_on_the_template() -> None:
    samples = np.zeros((300, 400, 3), np.uint8)
    turn = np.array([[0.3, 0.1], [-0.1, 0.3]])
    _, matrix = align(samples, face(TEMPLATE @ turn + (30, 120)))
    np.testing.assert_allclose(transform(matrix, TEMPLATE @ turn + (30, 120)), TEMPLATE, atol=1e-3)


def test_every_kind_of_picture_gives_the_same_crop() -> None:
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(0, 256, (30, 40, 1)), np.ones((8, 8, 1))).astype(np.uint8)
    rgb = np.repeat(grey, 3, 2)
    alpha = rng.integers(0, 256, grey.shape).astype(np.uint8)
    wanted, _ = align(rgb, at(40))
    assert wanted.shape == (SIDE, SIDE, 3) and wanted.std() > 20
    for samples in (grey, np.dstack((grey, alpha)), np.dstack((rgb, alpha))):
        crop, _ = align(samples, at(40))
        np.testing.assert_array_equal(crop, wanted)
    deep, _ = align(rgb.astype(np.uint16) * 257, at(40))
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - wanted).max() < 0.51


def test_what_lies_beyond_the_picture_is_facexlib_s_grey() -> None:
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        crop, _ = align(np.zeros((40, 40, 3), dtype), at(40))
        assert crop[-1, -1].tolist() == [132 * factor, 133 * factor, 135 * factor]


def test_a_face_wholly_outside_is_all_grey() -> None:
    crop, _ = align(np.zeros((40, 40, 1), np.uint8), face(TEMPLATE + 5000))
    assert (crop == (132, 133, 135)).all()


def test_what_does_not_suit_the_network_is_said_in_words() -> None:
    assert unfit(at(10.1)) is None and unfit(at(250)) is None
    assert "too small" in (unfit(at(9.9)) or "")
    assert "large enough" in (unfit(at(260)) or "")
    profile = TEMPLATE.copy()
    profile[[1, 4], 0] = profile[[0, 3], 0] + 30
    assert "turned" in (unfit(face(profile)) or "")
