"""Cuts out a face, turned and scaled so that its eyes, nose and mouth are where FFHQ has them.

The same as facexlib's FaceRestoreHelper on 8-bit pictures, except for one level in some of ten thousand samples,
because OpenCV rounds coordinates differently when it gets only the part with the face. 16-bit pictures keep their
depth.
"""

from typing import Any

import cv2
import numpy as np

from server.faces.base import (
    EYE_DISTANCE,
    SIDE,
    TEMPLATE,
    Face,
    Matrix,
    Points,
    after_cut,
    colours,
    inverse,
    square,
    transform,
)
from server.images.read.open import Samples

_OUTSIDE = (132, 133, 135)
"""Red, green, blue of what lies beyond the picture; facexlib's, with which GFPGAN is usually run."""

_LEAST_EYE_DISTANCE = 10.0
"""Pixels. Such a face is 41 pixels wide with its hair, and the network would make twelve pixels of each. GFPGAN's own
limit is 5, which often gives bad faces. In our test pictures, all smaller detections were false."""

_LARGEST_SIDE = 2 * SIDE
"""Pixels of the picture. A larger face already has more detail than the network draws, and would lose some."""

_MOST_TURNED = 0.2
"""Mean distance of the landmarks from the template, in distances between the eyes, at the best fit. Of 110
detections, faces seen from the front or half from the side had at most 0.17, profiles 0.24 and more."""


def align(samples: Samples, face: Face) -> tuple[Samples, Matrix]:
    """The aligned face, SIDE × SIDE × 3 in the picture's depth, and the matrix from the picture to it."""
    # NOTE: least median, as in facexlib; it tolerates that one of five points is wrong.
    matrix = np.asarray(cv2.estimateAffinePartial2D(face.landmarks, TEMPLATE, method=cv2.LMEDS)[0], np.float64)
    corners = transform(inverse(matrix), square())
    h, w = samples.shape[:2]
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, (w - 1, h - 1))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 2, (left + 1, top + 1), (w, h))
    part: Any = np.ascontiguousarray(colours(samples[top:bottom, left:right]))
    outside = tuple(value * (1 if samples.dtype == np.uint8 else 257) for value in _OUTSIDE)
    # The part is enough: what the face needs beyond it is beyond the picture too.
    crop: Any = cv2.warpAffine(part, after_cut(matrix, left, top), (SIDE, SIDE), borderValue=outside)
    return crop, matrix


def unfit(face: Face) -> str | None:
    """Why the network would make this face worse, in words for the caller, or None."""
    if face.eye_distance < _LEAST_EYE_DISTANCE:
        return (
            f"too small: its eyes are {face.eye_distance:.1f} pixels apart, and at least {_LEAST_EYE_DISTANCE:g} are "
            "needed"
        )
    if _turned(face.landmarks) > _MOST_TURNED:
        return "turned too far away from the camera"
    side = SIDE * face.eye_distance / EYE_DISTANCE
    if side > _LARGEST_SIDE:
        return (
            f"large enough: the picture shows it {side:.0f} pixels wide, and the network, which draws {SIDE}, would "
            "take detail away"
        )
    return None


def _turned(landmarks: Points) -> float:
    """How far five points are from the template, however moved, turned and scaled, in distances between the eyes."""
    points, template = landmarks - landmarks.mean(0), TEMPLATE - TEMPLATE.mean(0)
    source, target = points @ (1, 1j), template @ (1, 1j)
    # In complex numbers a rotation with a scale is one factor, and regression gives the best one.
    factor = np.vdot(source, target) / np.vdot(source, source)
    return float(np.abs(source * factor - target).mean() / EYE_DISTANCE)
