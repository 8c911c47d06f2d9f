"""The types that the steps of restoring a face share, and geometry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples
from server.images.samples import Floats

Points = NDArray[np.float64]
"""N × 2: x, y. Whole numbers are the centres of pixels, as everywhere in OpenCV."""
Matrix = NDArray[np.float64]
"""2 × 3, affine: takes x, y, 1 to x, y."""

SIDE = 512
"""Pixels of an aligned face, in both directions: what GFPGAN and ParseNet were trained on."""

TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Where an aligned face has its eyes, nose and corners of the mouth: FFHQ's means, as facexlib and GFPGAN use them."""

EYE_DISTANCE = float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))
"""In pixels of an aligned face: the unit in which landmarks are compared."""


@dataclass(frozen=True)
class Face:
    """A detected face. Everything is in pixels of the picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom; may extend beyond the picture."""
    score: float
    """0 … 1, how sure the detector is. Not comparable between detectors."""
    landmarks: Points
    """The eye on the left, the eye on the right, the nose, the left and the right corner of the mouth."""

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def eye_distance(self) -> float:
        return float(np.hypot(*(self.landmarks[1] - self.landmarks[0])))


@dataclass(frozen=True)
class RestoredFace:
    """A face that the network has restored, ready to be pasted."""

    matrix: Matrix
    """From the picture to the aligned face."""
    image: Floats
    """SIDE × SIDE × 3, RGB in [0, 1]."""
    mask: Floats | None
    """SIDE × SIDE, the opacity of each pixel; None for a soft square, whose edge depends on the result's size."""


@dataclass(frozen=True)
class Outcome:
    """What was done to one face of the picture."""

    face: Face
    restored: RestoredFace | None
    """None when it was not restored."""
    reason: str | None
    """Why it was not restored, for the caller; None when it was."""

    def to_dict(self) -> dict[str, Any]:
        """For the job's result."""
        return {
            "box": [round(value, 1) for value in self.face.box],
            "score": round(self.face.score, 4),
            "landmarks": [[round(x, 1), round(y, 1)] for x, y in self.face.landmarks.tolist()],
            "applied": self.restored is not None,
            "reason": self.reason,
        }


Check = Callable[[list[Samples], list[Samples]], list[str | None]]
"""`check(before, after)`: aligned faces, SIDE × SIDE × 3, 8 bits, in pairs. Why the second of each pair must not
replace the first, in words for the caller, or None if it may."""


def colours(samples: Samples) -> Samples:
    """Three planes without alpha; grey three times. A view where it can be."""
    planes = samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1]
    return np.broadcast_to(planes, (*planes.shape[:2], 3))  # type: ignore[return-value]


def transform(matrix: Matrix, points: Points) -> Points:
    moved: Points = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def inverse(matrix: Matrix) -> Matrix:
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def after(second: Matrix, first: Matrix) -> Matrix:
    """One matrix for both: `first`, then `second`."""
    return np.column_stack((second[:, :2] @ first[:, :2], transform(second, first[:, 2])))


def after_cut(matrix: Matrix, left: int, top: int) -> Matrix:
    """The same, for a picture whose first columns and rows have been cut off."""
    return after(matrix, np.array([[1.0, 0.0, left], [0.0, 1.0, top]]))


def square(grown: float = 0.0) -> Points:
    """Corners of the aligned face, at the borders of its pixels and not at their centres, moved outwards by `grown`
    pixels."""
    low, high = -0.5 - grown, SIDE - 0.5 + grown
    return np.array([[low, low], [high, low], [high, high], [low, high]])


def shrink(samples: Samples, width: int, height: int) -> Samples:
    """To a smaller size: every pixel is the mean of the pixels it covers."""
    small = cv2.resize(samples, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, -1)  # type: ignore[return-value]  # OpenCV drops the axis of a single channel
