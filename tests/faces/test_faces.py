"""From a picture to what became of each of its faces."""

from typing import Any

import numpy as np
import pytest

from server.errors import InvalidField, JobCancelled
from server.faces import FaceRestorer, Paste
from server.images.read.open import Samples
from server.job.job import Faces
from tests.faces import networks


def faces_of(net: Any, **kwargs: Any) -> FaceRestorer:
    return FaceRestorer(networks.detector(), networks.restorer(net), None, **kwargs)


@pytest.fixture(scope="module")
def copying() -> FaceRestorer:
    return faces_of(networks.copying())


@pytest.fixture(scope="module")
def two_people() -> Samples:
    return networks.picture("two_people.jpg")


def test_every_face_is_restored(copying: FaceRestorer, two_people: Samples) -> None:
    outcomes = copying(two_people, Faces())
    assert [outcome.reason for outcome in outcomes] == [None, None]
    assert [set(outcome.to_dict()) for outcome in outcomes] == [{"box", "score", "landmarks", "applied", "reason"}] * 2
    first = outcomes[0].to_dict()
    assert first["applied"] is True and first["score"] > 0.99
    left, top, right, bottom = first["box"]
    assert all(left < x < right and top < y < bottom for x, y in first["landmarks"]) and len(first["landmarks"]) == 5


@pytest.mark.parametrize(("only", "applied"), [("largest", [True, False]), ((1,), [False, True]), ((), [False, False])])
def test_only_those_asked_for(copying: FaceRestorer, two_people: Samples, only: Any, applied: list[bool]) -> None:
    outcomes = [outcome.to_dict() for outcome in copying(two_people, Faces(only=only))]
    assert [outcome["applied"] for outcome in outcomes] == applied
    assert {outcome["reason"] for outcome in outcomes} <= {None, "not asked for"}


def test_a_number_that_is_not_there_is_an_error(copying: FaceRestorer, two_people: Samples) -> None:
    with pytest.raises(InvalidField, match=r"no face 2: the picture has 2, numbered from 0"):
        copying(two_people, Faces(only=(0, 2)))
    with pytest.raises(InvalidField, match="the picture has none"):
        copying(np.zeros((64, 64, 3), np.uint8), Faces(only=(0,)))


def test_a_picture_without_faces(copying: FaceRestorer) -> None:
    assert copying(np.zeros((64, 64, 3), np.uint8), Faces()) == []
    assert copying(np.zeros((1, 1, 1), np.uint16), Faces()) == []


def test_a_face_that_does_not_suit_the_network_says_why(copying: FaceRestorer) -> None:
    profile, front = copying(networks.picture("exif6_portrait.jpg"), Faces())
    assert profile.restored is None and "turned" in (profile.reason or "")
    assert front.restored is not None


def test_a_restoration_that_is_not_the_face_is_refused(two_people: Samples) -> None:
    """A network of no meaning draws patterns."""
    for outcome in faces_of(networks.gfpgan())(two_people, Faces()):
        assert outcome.restored is None and "restored face" in (outcome.reason or "")


def test_guards_can_be_others(two_people: Samples) -> None:
    assert all(outcome.restored for outcome in faces_of(networks.gfpgan(), checks=())(two_people, Faces()))

    def never(before: list[Samples], after: list[Samples]) -> list[str | None]:
        for each in (*before, *after):
            assert each.shape == (512, 512, 3) and each.dtype == np.uint8
        return ["never"] * len(before)

    deep = two_people.astype(np.uint16) * 257
    assert [each.reason for each in faces_of(networks.gfpgan(), checks=(never,))(deep, Faces())] == ["never"] * 2


def test_it_can_be_stopped_between_faces(copying: FaceRestorer, two_people: Samples) -> None:
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise JobCancelled("the job was cancelled")

    with pytest.raises(JobCancelled):
        copying(two_people, Faces(), check)


def test_the_same_bytes_twice(two_people: Samples) -> None:
    """With noise in the network."""
    net = networks.gfpgan()
    for each in net.stylegan_decoder.style_convs:
        each.weight.fill_(0.5)
    restore = faces_of(net, checks=())

    def run() -> Samples:
        canvas = two_people.copy()
        outcomes = restore(canvas, Faces())
        Paste([each.restored for each in outcomes if each.restored], (1126, 661), (1126, 661), 1).into(canvas, 0)
        return canvas

    first = run()
    assert (first != two_people).any()
    np.testing.assert_array_equal(first, run())
