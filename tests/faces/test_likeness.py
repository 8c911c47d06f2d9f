"""Faithful restorations pass; other people, other moods of light, and what is no face do not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from server.faces.align import align
from server.faces.base import SIDE, Face
from server.faces.likeness import LikenessCheck
from server.images.read.open import Samples
from tests.faces import networks

NAMES = ("astronaut_collins.png", "biden_portrait.jpg", "hopper_128.png", "partial_face.jpg", "women_on_phones.jpg")


@pytest.fixture(scope="module")
def check() -> LikenessCheck:
    return LikenessCheck(networks.detector().each)


@pytest.fixture(scope="module")
def crops() -> dict[str, Samples]:
    detector = networks.detector()
    samples = {name: networks.picture(name) for name in NAMES}
    return {name: align(picture, detector(picture)[0])[0] for name, picture in samples.items()}


def worse(crop: Samples, factor: int) -> Samples:
    """As a small, noisy JPEG would show it."""
    small = cv2.resize(crop, (SIDE // factor, SIDE // factor), interpolation=cv2.INTER_AREA).astype(np.float64)
    small += np.random.default_rng(0).normal(0, 8, small.shape)
    _, data = cv2.imencode(".jpg", np.clip(small, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])
    return cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_face_given_back_unharmed_passes(check: LikenessCheck, crops: dict[str, Samples], factor: int) -> None:
    """What a perfect restoration of the harmed one is."""
    for name, crop in crops.items():
        assert check([worse(crop, factor)], [crop])[0] is None, name


def test_somebody_else_is_refused(check: LikenessCheck, crops: dict[str, Samples]) -> None:
    for name, crop in crops.items():
        for other in crops:
            if other != name:
                assert check([crop], [crops[other]])[0] is not None, (name, other)


def test_several_faces_at_once_are_checked_each_by_itself(check: LikenessCheck, crops: dict[str, Samples]) -> None:
    one, other = (crops[name] for name in NAMES[:2])
    blurred = cv2.GaussianBlur(one, (0, 0), 20)
    reasons = check([one, one, one, other], [one, other, blurred, other])  # type: ignore[list-item]
    assert [reason is None for reason in reasons] == [True, False, False, True]
    assert "finds no face" in (reasons[2] or "")


def test_other_light_is_refused(check: LikenessCheck, crops: dict[str, Samples]) -> None:
    crop = crops["astronaut_collins.png"]
    assert "other colours" in (check([crop], [crop // 2])[0] or "")


def test_a_face_that_has_grown_is_refused(check: LikenessCheck, crops: dict[str, Samples]) -> None:
    crop = crops["astronaut_collins.png"]
    grown = cv2.resize(crop, None, fx=1.1, fy=1.1)[25 : 25 + SIDE, 25 : 25 + SIDE]
    assert "looks different" in (check([crop], [grown])[0] or "")  # type: ignore[arg-type]


def test_what_the_detector_takes_for_no_face_is_refused(check: LikenessCheck, crops: dict[str, Samples]) -> None:
    crop = crops["astronaut_collins.png"]
    blurred = cv2.GaussianBlur(crop, (0, 0), 20)
    assert "finds no face in the restored one" in (check([crop], [blurred])[0] or "")  # type: ignore[arg-type]


def test_landmarks_that_have_moved_are_refused(crops: dict[str, Samples]) -> None:
    """The detector is asked where they are; here it finds everything 40 pixels further down than it is."""
    detector, crop = networks.detector(), crops["astronaut_collins.png"]

    def find(pictures: list[Samples], floor: float) -> list[list[Face]]:
        (faces,) = detector.each(pictures, floor)
        return [[replace(face, landmarks=face.landmarks + (0, 40)) for face in faces]]

    assert "have moved" in (LikenessCheck(find)([crop], [crop])[0] or "")


def test_nothing_to_see_is_refused(check: LikenessCheck) -> None:
    flat = np.full((SIDE, SIDE, 3), 100, np.uint8)
    assert "looks different" in (check([flat], [flat])[0] or "")
