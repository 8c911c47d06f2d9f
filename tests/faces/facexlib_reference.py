"""facexlib's pasting, step by step, so that each of its mistakes can be put right by itself.

`paste` with no mistakes put right gives the bytes of `FaceRestoreHelper.paste_faces_to_input_image`; test_paste.py
holds it to that. Put right, it is what ours must equal.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tests.faces.networks import CPU, detector_path, parser

OFFSET = "half a pixel too far"
EVEN = "kernels without a middle"
CUT = "fractions cut off"
ALL = frozenset({OFFSET, EVEN, CUT})


def helper(upscale: float, *, parse: bool = False) -> Any:
    """facexlib's own, with the detector that is here and a parser of no meaning."""
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    return FaceRestoreHelper(
        upscale, det_model="retinaface_mobile0.25", use_parse=parse, device=CPU, model_rootpath=str(_weights())
    )


@functools.cache
def _weights() -> Path:
    """A folder with what facexlib would download, by the names that it looks for."""
    folder = Path(tempfile.mkdtemp(prefix="facexlib-"))
    atexit.register(shutil.rmtree, folder)
    (folder / "detection_mobilenet0.25_Final.pth").symlink_to(detector_path())
    torch.save(parser().state_dict(), folder / "parsing_parsenet.pth")
    return folder


def paste(
    canvas: NDArray[np.uint8],
    faces: list[NDArray[np.uint8]],
    inverses: list[NDArray[np.float64]],
    upscale: float,
    right: frozenset[str] = frozenset(),
) -> NDArray[np.uint8]:
    """`canvas`: of the result's size. `inverses`: from the aligned face to the result, as `get_inverse_affine` makes
    them. `right`: which mistakes are put right."""
    h, w = canvas.shape[:2]
    result: Any = canvas
    for face, inverse in zip(faces, inverses, strict=True):
        matrix = inverse.copy()
        matrix[:, 2] += 0.5 * upscale - (0.5 if OFFSET in right else 0)
        warped = cv2.warpAffine(face, matrix, (w, h))
        mask = cv2.warpAffine(np.ones((512, 512), np.float32), matrix, (w, h))
        mask = _erode(mask, int(2 * upscale), right)
        pasted = mask[:, :, None] * warped
        edge = int(np.sum(mask) ** 0.5) // 20
        mask = _erode(mask, 2 * edge, right)
        soft = cv2.GaussianBlur(mask, (2 * edge + 1, 2 * edge + 1), 0)[:, :, None]
        result = soft * pasted + (1 - soft) * result
    return (np.rint(result) if CUT in right else result).astype(np.uint8)


def _erode(mask: Any, kernel: int, right: frozenset[str]) -> Any:
    if EVEN in right and kernel % 2 == 0:
        # One that is symmetric and as wide: the mean of what one to the left and one to the right give.
        wide = cv2.erode(mask, np.ones((kernel + 1, kernel + 1), np.uint8))
        return (wide + cv2.erode(mask, np.ones((kernel - 1, kernel - 1), np.uint8))) / 2
    return cv2.erode(mask, np.ones((kernel, kernel), np.uint8))
