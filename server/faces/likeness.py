"""Checks whether a restored face is still the same face, without a network that recognises people.

Restoring must add only detail, and keep identity, light and the position of the eyes. There are two measures: reduced
to 32 pixels, both faces must be nearly the same picture; and the landmarks, detected again in the restored face, must
be where they were. `benchmarks/faces.py` measures the check. 36 faces were made up to 12 times smaller and damaged by
noise and JPEG; the check accepts the undamaged original for each, which would be a perfect restoration. Of 1248 pairs
of different pictures it accepts two, which show the same man. It does not detect small changes of expression or age.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from server.faces.base import EYE_DISTANCE, SIDE, TEMPLATE, Face
from server.images.read.open import Samples
from server.images.samples import Floats

_AFAR = 32

_LEAST_LIKENESS = 0.85
"""Correlation of grey values. The same face: 0.954 and more; another's: 95 % have less than 0.57."""

_MOST_TONE = 0.1
"""Mean difference of colours, of 1. The same face: up to 0.046; another's: 95 % have more than 0.148. The limit is
above the first, because GFPGAN changes the tone a little."""

_FLOOR = 0.3
"""Least score of a detection in the restored face."""

_MOST_MOVED = 0.25
"""Mean distance of the landmarks from the template, in distances between the eyes. The same face: 95 % have less
than 0.21."""


class LikenessCheck:
    def __init__(self, find: Callable[[list[Samples], float], list[list[Face]]]) -> None:
        """`find(pictures, floor)`: the faces in each of some pictures of one size."""
        self._find = find

    def __call__(self, before: list[Samples], after: list[Samples]) -> list[str | None]:
        reasons = [_from_afar_another(one, other) for one, other in zip(before, after, strict=True)]
        alike = [index for index, reason in enumerate(reasons) if reason is None]
        if alike:
            for index, faces in zip(alike, self._find([after[index] for index in alike], _FLOOR), strict=True):
                reasons[index] = _moved_away(faces)
        return reasons


def _from_afar_another(before: Samples, after: Samples) -> str | None:
    one, other = _from_afar(before), _from_afar(after)
    tone = float(np.abs(one - other).mean())
    if tone > _MOST_TONE:
        return f"the restored face has other colours (difference {tone:.2f}, at most {_MOST_TONE:g})"
    likeness = _correlation(one.mean(1), other.mean(1))
    if likeness < _LEAST_LIKENESS:
        return f"the restored face looks different (likeness {likeness:.2f}, at least {_LEAST_LIKENESS:g})"
    return None


def _moved_away(faces: list[Face]) -> str | None:
    """`faces`: those that were found in the restored one."""
    moved = min((_moved(face) for face in faces), default=None)
    if moved is None:
        return "the face detector finds no face in the restored one"
    if moved > _MOST_MOVED:
        return f"eyes, nose or mouth have moved (by {moved:.2f} of the eyes' distance, at most {_MOST_MOVED:g})"
    return None


def _from_afar(face: Samples) -> Floats:
    """N × 3 in [0, 1]: the pixels within the oval that an aligned face fills."""
    small = cv2.resize(face, (_AFAR, _AFAR), interpolation=cv2.INTER_AREA)
    return np.asarray(small[_OVAL] / np.float32(255), np.float32)


def _correlation(one: Floats, other: Floats) -> float:
    """Pearson's; 0 where one of them is flat."""
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other) / max(math.sqrt(float(one @ one) * float(other @ other)), 1e-9)


def _oval() -> NDArray[np.bool_]:
    """Around the landmarks, from the forehead to the chin."""
    (x, y), wide, high = TEMPLATE.mean(0) * _AFAR / SIDE, 0.31 * _AFAR, 0.39 * _AFAR
    rows, columns = np.mgrid[:_AFAR, :_AFAR] + 0.5
    return np.asarray(((columns - x) / wide) ** 2 + ((rows - y) / high) ** 2 < 1)


_OVAL = _oval()


def _moved(face: Face) -> float:
    return float(np.hypot(*(face.landmarks - TEMPLATE).T).mean() / EYE_DISTANCE)
