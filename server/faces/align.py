"""A face cut out, turned and scaled until its eyes, nose and mouth lie where FFHQ has them.

The same as facexlib's FaceRestoreHelper on 8-bit pictures, but for a level in some of ten thousand samples, where
OpenCV's rounding of coordinates shows that only the face's own part of the picture is looked at. 16-bit ones keep their
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
"""Red, green, blue of what lies beyond the picture; facexlib's, so what GFPGAN's results are known for."""

_LEAST_EYE_DISTANCE = 10.0
"""Pixels. Such a face is 41 pixels wide with its hair, and the network would draw twelve from each; GFPGAN's own limit
is 5, and what it makes of these is what people complain of. In the pictures that we looked at, everything smaller that
the detector took for a face was none."""

_LARGEST_SIDE = 2 * SIDE
"""Pixels of the picture. A larger aligned face already has more than the network draws, and would lose by it."""

_MOST_TURNED = 0.2
"""Mean distance of the landmarks from the template, in distances between the eyes, when it lies on them as well as it
can. Of 110 finds, faces seen from the front or half from the side had at most 0.17, profiles 0.24 and more."""


def align(samples: Samples, face: Face) -> tuple[Samples, Matrix]:
    """The aligned face, SIDE × SIDE × 3 in the picture's depth, and the matrix that leads from the picture to it."""
    # NOTE: least median, which facexlib chose for being like scikit-image's; it lets one of five points be wrong.
    matrix = np.asarray(cv2.estimateAffinePartial2D(face.landmarks, TEMPLATE, method=cv2.LMEDS)[0], np.float64)
    corners = transform(inverse(matrix), square())
    h, w = samples.shape[:2]
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, (w - 1, h - 1))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 2, (left + 1, top + 1), (w, h))
    part: Any = np.ascontiguousarray(colours(samples[top:bottom, left:right]))
    outside = tuple(value * (1 if samples.dtype == np.uint8 else 257) for value in _OUTSIDE)
    # From the part alone: whatever is beyond it and wanted is beyond the picture too.
    crop: Any = cv2.warpAffine(part, after_cut(matrix, left, top), (SIDE, SIDE), borderValue=outside)
    return crop, matrix


def unfit(face: Face) -> str | None:
    """Why the network could only spoil this face, in words for the caller, or None."""
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
    # In complex numbers a turn with a scale is one factor, and the best one a regression.
    factor = np.vdot(source, target) / np.vdot(source, source)
    return float(np.abs(source * factor - target).mean() / EYE_DISTANCE)
