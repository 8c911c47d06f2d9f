"""Finds faces: RetinaFace (Deng et al., arXiv:1905.00641), with facexlib's network and our own decoding.

facexlib's class keeps the size of the picture in itself, so it is not thread-safe; this one keeps nothing. Boxes and
landmarks are those of its `detect_faces`, but faces inside faces are dropped.
"""

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.faces.base import Face, colours, shrink
from server.images.read.open import Samples
from server.job.tiling import Size
from server.models import basicsr_shim
from server.models.base import StateDict, shapes_only

LONG_EDGE = 1600
"""Larger pictures are reduced to this size, which is about facexlib's own 1600 … 2150. The smallest anchors are 16
pixels, so in a picture of 8000 pixels faces below about 80 are not found. Their eyes are at most 30 pixels apart, and
what the network makes of so few pixels is mostly invented."""

_OVERLAP = 4 / 7
"""If two boxes share more than this part of the smaller one, the one with the lower score is dropped. Boxes of equal
size with an intersection over union of 0.4, facexlib's limit, share exactly this part, so everything that facexlib
drops is dropped here too; and also a face inside a face, which an intersection over union does not detect."""

_MEAN = np.array((104, 117, 123), np.float32)  # of ImageNet, blue first, as these networks were trained
_STEPS = (8, 16, 32)
_ANCHORS = ((16, 32), (64, 128), (256, 512))
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2


@dataclass(frozen=True)
class _Kind:
    name: str
    """As facexlib calls it."""
    key: str
    """A key that only its state dicts have."""
    floor: float
    """Least score of a face."""


_KINDS = (
    # facexlib's own value; without such a checkpoint we could not measure another.
    _Kind("resnet50", "body.layer4.2.conv3.weight", 0.97),
    # On 380 pictures the human faces to restore have 0.86 and more; false detections, except cats and dogs, mostly have
    # less than 0.8.
    _Kind("mobile0.25", "body.stage3.1.4.weight", 0.8),
)


class Detector:
    def __init__(self, state: StateDict, name: str, engine: Engine) -> None:
        """`name`: of the checkpoint, for errors. `engine`: runs the network. Raises ModelNotFound."""
        kind = next((kind for kind in _KINDS if kind.key in state), None)
        if kind is None:
            raise ModelNotFound(
                f"{name} is no RetinaFace; this server knows those of facexlib (ResNet-50, MobileNet-0.25)"
            )
        self._floor = kind.floor
        self._engine = engine
        self._net = _build(kind.name)
        try:
            self._net.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise ModelNotFound(f"{name} looks like RetinaFace {kind.name} but its weights don't fit it") from error
        self._net.eval().requires_grad_(False).to(engine.device)
        self._mean = torch.from_numpy(_MEAN).to(engine.device)

    def __call__(self, samples: Samples, floor: float | None = None) -> list[Face]:
        """The faces of a picture of any kind, the largest first. `floor`: least score, None for the network's own."""
        return self.each([samples], floor)[0]

    def each(self, pictures: list[Samples], floor: float | None = None) -> list[list[Face]]:
        """The same for pictures of one size and kind, which go through the network together."""
        h, w = pictures[0].shape[:2]
        scale = min(1.0, LONG_EDGE / max(h, w))
        size = max(1, round(w * scale)), max(1, round(h * scale))
        small = [colours(each if scale == 1 else shrink(each, *size)) for each in pictures]
        outputs = self._engine.apply("the face detector", self._forward, np.stack(small))
        return [
            _faces(torch.from_numpy(output), size, (w, h), self._floor if floor is None else floor)
            for output in outputs
        ]

    def _forward(self, samples: Tensor) -> Tensor:
        """On the device: N × H × W × 3, uint16 as int16 → for each anchor, offsets (4), confidence (2) and points (10),
        as the network gives them."""
        deep = samples.dtype == torch.int16
        levels = samples.int().bitwise_and_(65535).float().div_(257) if deep else samples.float()
        image = (levels.flip(-1) - self._mean).permute(0, 3, 1, 2)  # blue first
        return torch.cat([output.float() for output in self._net(image)], -1)


def _faces(output: Tensor, size: Size, original: Size, floor: float) -> list[Face]:
    """`output`: of the network for a picture of `size` (width, height), which shows one of size `original`."""
    offsets, confidence, points = output[:, :4], output[:, 4:6], output[:, 6:]
    kept = confidence[:, 1] > floor
    offsets, points, anchors = offsets[kept], points[kept], _anchors(*size)[kept]
    centres, sides = anchors[:, :2], anchors[:, 2:]
    middle = centres + offsets[:, :2] * _CENTRE_VARIANCE * sides
    half = sides * torch.exp(offsets[:, 2:] * _SIZE_VARIANCE) / 2
    landmarks = centres.repeat(1, 5) + points * _CENTRE_VARIANCE * sides.repeat(1, 5)
    boxes = torch.cat((middle - half, middle + half), 1)
    factor = np.array(original) / np.array(size)
    faces = [
        Face(tuple((box.reshape(2, 2) * factor).ravel().tolist()), score, each.reshape(5, 2) * factor)
        for box, score, each in zip(
            boxes.double().numpy(), confidence[kept, 1].tolist(), landmarks.double().numpy(), strict=True
        )
    ]
    return sorted(_distinct(faces), key=lambda face: -face.area)


def _build(kind: str) -> nn.Module:
    """Without weights and on no device, which skips random initialisation."""
    with shapes_only(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses an old argument of torchvision
        net: nn.Module = basicsr_shim.retina_face()(kind, device=torch.device("meta"))
    return net


@functools.lru_cache(maxsize=4)
def _anchors(w: int, h: int) -> Tensor:
    """(N, 4): centre x, centre y, width and height in pixels, in the order of the network's outputs."""
    levels = []
    for step, sides in zip(_STEPS, _ANCHORS, strict=True):
        y, x = torch.meshgrid(torch.arange(math.ceil(h / step)), torch.arange(math.ceil(w / step)), indexing="ij")
        centres = (torch.stack((x, y), -1).float() + 0.5) * step
        squares = torch.tensor(sides).float()[:, None].expand(-1, 2)
        levels.append(
            torch.cat(
                (centres[:, :, None].expand(-1, -1, len(sides), -1), squares.expand(*centres.shape[:2], -1, -1)), -1
            ).reshape(-1, 4)
        )
    return torch.cat(levels)


def _distinct(faces: list[Face]) -> list[Face]:
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_common_area(face, other) <= _OVERLAP * min(face.area, other.area) for other in kept):
            kept.append(face)
    return kept


def _common_area(one: Face, other: Face) -> float:
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    return max(0.0, right - left) * max(0.0, bottom - top)
