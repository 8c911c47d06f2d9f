"""Pastes restored faces into the finished rows of a result of any size, depth and number of channels.

The face and its mask are small pictures of the aligned face, from which every band of the result samples what it shows.
So no mask or warped face of the size of the picture ever exists, and only the faces' own pixels are computed.

The soft square mask is FaceRestoreHelper's in closed form. There a square is warped onto the whole picture, eroded by a
box and blurred by a Gaussian. A rotated square eroded by an upright box is a smaller rotated square; blurred, it is the
product of two error functions in the square's own directions, which can be computed in the aligned face.

This differs from facexlib 0.3.0 where that has errors, which tests/faces/test_paste.py shows: its faces are half a
pixel of the result too far right and down, and its masks up to one pixel, because its boxes have even sides; it
truncates instead of rounding; it samples reduced faces without a filter; 16-bit faces become black; grey pictures fail.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from server.faces.base import SIDE, Matrix, Points, RestoredFace, after, after_cut, inverse, square, transform
from server.images.read.open import Samples
from server.images.samples import Floats, full_scale
from server.job.tiling import Size

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601: how JPEG, OpenCV and libvips make grey."""

_EDGES_PER_SIDE = 20
"""The face's side divided by the width of the mask's soft edge, as in facexlib."""


@dataclass(frozen=True)
class _Patch:
    """One face at its place in the result."""

    texture: Floats
    """H × W × channels: the face's colours or grey, then its mask."""
    matrix: Matrix
    """From the result to the texture."""
    left: int
    top: int
    right: int
    bottom: int
    """The part of the result that it can change."""


class Paste:
    def __init__(self, faces: Iterable[RestoredFace], source: Size, result: Size, strength: float) -> None:
        """`faces`: found in a picture of size `source`, to go into one of size `result`. `strength`: from 0 for no
        effect to 1 for opaque faces."""
        self._faces = list(faces)
        self._strength = strength
        scale_x, scale_y = result[0] / source[0], result[1] / source[1]
        # Pixels are squares with their centres at whole numbers: the borders of both pictures coincide.
        self._to_source = np.array([[1 / scale_x, 0, 0.5 / scale_x - 0.5], [0, 1 / scale_y, 0.5 / scale_y - 0.5]])
        self._result = result
        self._upscale = math.sqrt(scale_x * scale_y)
        self._patches: dict[int, list[_Patch]] = {}

    def into(self, band: Samples, y: int) -> None:
        """Blend the faces into `band`, which is the result's rows from `y` on and is changed in place: H × W × 1…4,
        grey or RGB, alpha last and left alone. Each sample is rounded once."""
        planes = 3 if band.shape[2] >= 3 else 1
        for patch in self._of(planes):
            top, bottom = max(patch.top, y), min(patch.bottom, y + len(band))
            if top < bottom:
                _blend(band[top - y : bottom - y, patch.left : patch.right, :planes], patch, patch.left, top)

    def _of(self, planes: int) -> list[_Patch]:
        if planes not in self._patches:
            patches = (self._patch(face, planes) for face in self._faces)
            self._patches[planes] = [patch for patch in patches if patch is not None]
        return self._patches[planes]

    def _patch(self, face: RestoredFace, planes: int) -> _Patch | None:
        """None for a face beyond the result."""
        matrix = after(face.matrix, self._to_source)  # from the result to the aligned face
        corners = transform(inverse(matrix), square(0.5))
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, self._result).tolist()
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, self._result).tolist()
        if left == right or top == bottom:
            return None
        mask = face.mask if face.mask is not None else soft_square(matrix, self._result, self._upscale)
        image = face.image if planes == 3 else (face.image @ _LUMA)[..., None]
        texture = np.dstack((image, mask * np.float32(self._strength)))
        # To avoid aliasing, a texture is first reduced where fewer than every second pixel would be sampled.
        halvings = int(np.clip(math.log2(_scale(matrix)), 0, math.log2(SIDE)))
        for _ in range(halvings):
            texture = (texture[::2, ::2] + texture[1::2, ::2] + texture[::2, 1::2] + texture[1::2, 1::2]) / 4
        ratio = 0.5**halvings
        smaller = np.array([[ratio, 0, 0.5 * ratio - 0.5], [0, ratio, 0.5 * ratio - 0.5]])
        return _Patch(texture, after(smaller, matrix), left, top, right, bottom)


def soft_square(matrix: Matrix, result: Size, upscale: float) -> Floats:
    """SIDE × SIDE: 1 in the middle of the face, 0 at its borders, but for those beyond the result's own.

    `matrix`: from the result to the aligned face. `upscale`: from the source to the result. As in facexlib the border
    is cut back by a pixel of the source, then by the width of the soft edge, which goes by as much of the face as the
    result shows. Widths are those of facexlib's kernels, in whole pixels of the result.
    """
    first = _half(int(2 * upscale))
    corners = transform(inverse(matrix), square(-first * float(np.abs(matrix[0, :2]).sum())))
    edge = max(1, int(math.sqrt(_visible(corners, result))) // _EDGES_PER_SIDE)
    radius = first + _half(2 * edge)

    # An upright grid, half as fine as the aligned face, over what the face can touch.
    step = max(1.0, 2 / _scale(matrix))
    outline = transform(inverse(matrix), square())
    start = np.clip(np.floor(outline.min(0) - edge), -0.5, np.array(result) - 0.5)
    stop = np.clip(np.ceil(outline.max(0) + edge), -0.5, np.array(result) - 0.5)
    columns, rows = (np.arange(low + step / 2, high, step) for low, high in zip(start, stop, strict=True))
    eroded = _eroded(matrix, columns[None, :], rows[:, None], radius, step, result)
    blur = 2 * max(1, round(edge / step)) + 1
    sigma = (0.3 * (edge - 1) + 0.8) / step  # OpenCV's for the kernel of 2 · edge + 1 pixels
    mask = cv2.GaussianBlur(eroded, (blur, blur), sigma, borderType=cv2.BORDER_REFLECT)
    to_result = np.array([[step, 0, columns[0]], [0, step, rows[0]]])
    soft = cv2.warpAffine(mask, after(matrix, to_result), (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(soft, np.float32)


def _eroded(
    matrix: Matrix, x: NDArray[np.float64], y: NDArray[np.float64], radius: float, step: float, result: Size
) -> Floats:
    """The aligned square after erosion by an upright box, at these points of the result: 1 inside, 0 outside, and in
    between where the border goes through a cell of the grid. Beyond the result nothing is eroded.
    """
    w, h = result
    mask = np.ones((y.size, x.size), np.float32)
    for axis in (0, 1):
        across, down, shift = matrix[axis]
        for sign in (1, -1):
            # The distance inside this side of the square, and how far the box extends towards it.
            inside = sign * (across * x + down * y + shift) + (0.5 if sign == 1 else SIDE - 0.5)
            left_or_right = np.clip(x if sign * across > 0 else w - 1 - x, 0, radius)
            up_or_down = np.clip(y if sign * down > 0 else h - 1 - y, 0, radius)
            inside = inside - abs(across) * left_or_right - abs(down) * up_or_down
            slope = np.hypot(across * (left_or_right == radius), down * (up_or_down == radius)) * step
            mask *= np.clip(inside / np.maximum(slope, 1e-6) + 0.5, 0, 1)
    return mask


def _blend(band: Samples, patch: _Patch, left: int, top: int) -> None:
    h, w = band.shape[:2]
    layer = cv2.warpAffine(
        patch.texture, after_cut(patch.matrix, left, top), (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    face, share = layer[..., :-1] * np.float32(full_scale(band.dtype)), layer[..., -1:]
    mixed = band.astype(np.float32)
    mixed += share * (face - mixed)
    band[:] = np.rint(mixed, out=mixed)  # a mean of two values in range is in range


def _half(kernel: int) -> float:
    """The radius of a kernel of so many pixels, as the mean of its two sides."""
    return max(0, kernel - 1) / 2


def _visible(corners: Points, result: Size) -> float:
    """Area of a convex polygon within the result."""
    w, h = result
    frame = np.array([[0, 0], [w, 0], [w, h], [0, h]]) - 0.5
    return float(cv2.intersectConvexConvex(corners.astype(np.float32), frame.astype(np.float32))[0])


def _scale(matrix: Matrix) -> float:
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
