"""The real small RetinaFace on real pictures: exactly their faces, where facexlib finds them."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from server.errors import ModelNotFound
from server.faces import Detector
from server.faces.detector import LONG_EDGE
from server.models import basicsr_shim, load_state
from tests.faces import networks
from tests.faces.networks import CPU, ENGINE

FACES = {
    "astronaut_collins.png": 1,
    "biden_portrait.jpg": 1,
    "exif6_portrait.jpg": 2,  # one of them in profile
    "hopper_128.png": 1,
    "partial_face.jpg": 1,
    "two_people.jpg": 2,
    "women_on_phones.jpg": 2,
    "unsplash_02_garden.jpg": 0,
    "unsplash_06_food.jpg": 0,
    "unsplash_08_children.jpg": 0,  # from the waist down
}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return networks.detector()


def facexlib_detector() -> Any:
    net = basicsr_shim.retina_face()("mobile0.25", device=CPU)
    net.load_state_dict(load_state(networks.detector_path()))
    return net


@pytest.mark.parametrize("name", FACES)
def test_every_portrait_has_exactly_its_faces_and_scenes_have_none(detector: Detector, name: str) -> None:
    assert len(detector(networks.picture(name))) == FACES[name]


@pytest.mark.parametrize("name", ["two_people.jpg", "astronaut_collins.png", "hopper_128.png"])
def test_boxes_and_landmarks_are_facexlib_s(detector: Detector, name: str) -> None:
    samples = networks.picture(name)
    with torch.no_grad():
        rows = facexlib_detector().detect_faces(np.ascontiguousarray(samples[..., ::-1]), 0.8)
    faces = sorted(detector(samples), key=lambda face: -face.score)
    assert len(faces) == len(rows) > 0
    for face, row in zip(faces, rows, strict=True):
        np.testing.assert_allclose(face.box, row[:4], atol=0.01)
        np.testing.assert_allclose(face.landmarks.ravel(), row[5:], atol=0.01)
        assert face.score == pytest.approx(row[4], abs=1e-4)


def test_the_largest_face_comes_first(detector: Detector) -> None:
    faces = detector(networks.picture("women_on_phones.jpg"))
    assert faces[0].area > 4 * faces[1].area


def test_a_huge_picture_is_looked_at_smaller_and_answered_in_its_own_pixels(detector: Detector) -> None:
    samples = networks.picture("two_people.jpg")
    huge = np.repeat(np.repeat(samples, 4, 0), 4, 1)
    assert max(huge.shape) > 2 * LONG_EDGE
    for face, other in zip(detector(samples), detector(huge), strict=True):
        # A pixel's centre moves by 1.5 when it becomes four; the rest is what the network makes of another size.
        assert np.abs(face.landmarks * 4 + 1.5 - other.landmarks).max() < 0.1 * other.eye_distance


def test_every_kind_of_picture_has_the_same_faces(detector: Detector) -> None:
    samples = networks.picture("astronaut_collins.png")
    grey = np.rint(samples @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
    alpha = np.full_like(grey, 7)
    wanted = detector(samples)[0]
    for other in (samples.astype(np.uint16) * 257, np.dstack((samples, alpha)), grey, np.dstack((grey, alpha))):
        found = detector(other)  # type: ignore[arg-type]
        assert len(found) == 1
        assert np.abs(found[0].landmarks - wanted.landmarks).max() < 3


def contained(one: Any, other: Any) -> float:
    """Area of two boxes' intersection, as a part of the smaller box."""
    sides = np.minimum(one[2:4], other[2:4]) - np.maximum(one[:2], other[:2])
    return float(np.prod(np.maximum(sides, 0)) / min(np.prod(box[2:4] - box[:2]) for box in (one, other)))


def test_a_face_within_a_face_is_dropped(detector: Detector) -> None:
    """Asked for anything at all, facexlib finds faces inside faces; ours are distinct."""
    samples = networks.picture("exif6_portrait.jpg")
    with torch.no_grad():
        theirs = facexlib_detector().detect_faces(np.ascontiguousarray(samples[..., ::-1]), 0.02)[:, :4]
    ours = np.array([face.box for face in detector(samples, 0.02)])
    assert max(contained(one, other) for one, other in itertools.combinations(theirs, 2)) > 0.9
    assert max(contained(one, other) for one, other in itertools.combinations(ours, 2)) < 0.58
    # The best one is among them still.
    assert np.abs(ours - theirs[0]).max(1).min() < 0.01


def test_what_is_no_retinaface_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="no RetinaFace"):
        Detector({"body.0.weight": torch.zeros(1)}, "upscaler.pth", ENGINE)


def test_a_damaged_one_is_refused() -> None:
    state = load_state(networks.detector_path())
    state["ClassHead.0.conv1x1.weight"] = torch.zeros(4, 4, 1, 1)
    with pytest.raises(ModelNotFound, match="don't fit"):
        Detector(state, "retinaface.pth", ENGINE)


def test_the_large_one_is_recognised_and_runs() -> None:
    """No such checkpoint is here: the package's layout with weights of no meaning, which find anything at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = basicsr_shim.retina_face()("resnet50", device=CPU)
    detector = Detector(net.state_dict(), "detection_Resnet50_Final.pth", ENGINE)
    assert len(detector(np.zeros((64, 64, 3), np.uint8), 0.0)) > 0
    assert detector(np.zeros((64, 64, 3), np.uint8), 1.0) == []
