"""Finds which pixels of an aligned face belong to the face: ParseNet of PSFRGAN (Chen et al., arXiv:2009.08709), as in
facexlib.

The mask is blurred as in FaceRestoreHelper, so that hair, hat and background stay as the upscaler made them.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.faces.base import SIDE
from server.images.samples import Floats
from server.models import basicsr_shim
from server.models.base import StateDict, shapes_only

_CLASSES = 19
_NOT_FACE = (0, 14, 16, 17, 18)
"""Background, neck, cloth, hair and hat, in the order of CelebAMask-HQ, with which the network was trained."""

_BLUR, _BLUR_SIGMA, _BLURS = 101, 11, 2
_BORDER = 10
"""Pixels at each side where the mask is 0."""


class Parser:
    def __init__(self, state: StateDict, name: str, engine: Engine) -> None:
        """`name`: of the checkpoint, for errors. `engine`: runs the network. Raises ModelNotFound."""
        with shapes_only():
            self._net: nn.Module = basicsr_shim.parse_net()(in_size=SIDE, out_size=SIDE, parsing_ch=_CLASSES)
        try:
            self._net.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise ModelNotFound(f"{name} is not the ParseNet of facexlib") from error
        self._net.eval().requires_grad_(False).to(engine.device)
        self._engine = engine

    def __call__(self, faces: list[Floats]) -> list[Floats]:
        """SIDE × SIDE × 3 RGB in [0, 1] → SIDE × SIDE, the share of face in each pixel. Raises OutOfMemory."""
        classes = self._engine.apply("the face parser", self._forward, np.stack(faces)) if faces else ()
        return [soft_mask(each) for each in classes]

    def _forward(self, faces: Tensor) -> Tensor:
        """On the device: N × SIDE × SIDE × 3 → the class of each pixel, a byte."""
        scores: Tensor = self._net(faces.permute(0, 3, 1, 2).sub(0.5).div_(0.5))[0]
        return scores.argmax(1).to(torch.uint8)


def soft_mask(classes: NDArray[Any]) -> Floats:
    """The opacity of each pixel by its class."""
    mask = (~np.isin(classes, _NOT_FACE)).astype(np.float32)
    for _ in range(_BLURS):
        mask = np.asarray(cv2.GaussianBlur(mask, (_BLUR, _BLUR), _BLUR_SIGMA), np.float32)
    inside = np.zeros_like(mask)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = 1
    return mask * inside
