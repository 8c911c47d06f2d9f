"""Faces are found in the source, restored by a network, and pasted into the finished rows of the result."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from server.engine.engine import Engine
from server.errors import InvalidField
from server.faces.align import align, unfit
from server.faces.base import Check, Face, Outcome, RestoredFace
from server.faces.detector import Detector
from server.faces.likeness import LikenessCheck
from server.faces.parser import Parser
from server.faces.paste import Paste
from server.faces.restorers import Restorer
from server.faces.restorers import load as load_restorer
from server.images.read.open import Samples
from server.images.samples import Floats, from_floats
from server.job.job import Faces
from server.models import load_state
from server.weights.catalog import verify
from server.weights.faces import FaceWeights

__all__ = [
    "Check",
    "Detector",
    "Face",
    "FaceRestorer",
    "Outcome",
    "Parser",
    "Paste",
    "RestoredFace",
    "Restorer",
    "load",
]

MOST = 64
"""Most faces that are restored in one picture: the largest ones. On a CPU each takes seconds."""


class FaceRestorer:
    def __init__(
        self, detector: Detector, restorer: Restorer, parser: Parser | None, checks: Sequence[Check] | None = None
    ) -> None:
        """Without `parser`, faces are pasted through a soft square. `checks`: each may refuse a restoration; None for
        the likeness check alone."""
        self._detector = detector
        self._restorer = restorer
        self._parser = parser
        self._checks = (LikenessCheck(detector.each),) if checks is None else tuple(checks)

    def __call__(self, samples: Samples, wanted: Faces, check: Callable[[], None] = lambda: None) -> list[Outcome]:
        """What was done to every face of a picture of any kind, the largest first: the order in which `wanted.only`
        counts. `check` is called before each run of the network, and may raise to stop. Only the networks run in the
        device's thread, where other jobs wait. Raises InvalidField for the number of a face that does not exist, and
        OutOfMemory.
        """
        faces = self._detector(samples)
        _check_numbers(wanted, len(faces))
        outcomes = [Outcome(face, None, _left_out(number, face, wanted)) for number, face in enumerate(faces)]
        waiting = [number for number, outcome in enumerate(outcomes) if outcome.reason is None]
        while waiting:
            check()
            batch, waiting = waiting[: self._restorer.batch], waiting[self._restorer.batch :]
            for number, outcome in zip(batch, self._restore(samples, [faces[each] for each in batch]), strict=True):
                outcomes[number] = outcome
        return outcomes

    def _restore(self, samples: Samples, faces: list[Face]) -> list[Outcome]:
        aligned = [align(samples, face) for face in faces]
        images = self._restorer([crop for crop, _ in aligned])
        reasons = self._refusals([crop for crop, _ in aligned], images)
        kept = [image for image, reason in zip(images, reasons, strict=True) if reason is None]
        masks: Iterator[Floats | None] = iter(self._parser(kept) if self._parser else [None] * len(kept))
        return [
            Outcome(face, RestoredFace(matrix, image, next(masks)) if reason is None else None, reason)
            for face, (_, matrix), image, reason in zip(faces, aligned, images, reasons, strict=True)
        ]

    def _refusals(self, crops: list[Samples], restored: list[Floats]) -> list[str | None]:
        before = [crop if crop.dtype == np.uint8 else (crop >> 8).astype(np.uint8) for crop in crops]
        after = [from_floats(image.copy(), np.uint8) for image in restored]
        reasons: list[str | None] = [None] * len(crops)
        for check in self._checks:
            alike = [index for index, reason in enumerate(reasons) if reason is None]
            found = check([before[index] for index in alike], [after[index] for index in alike]) if alike else []
            for index, reason in zip(alike, found, strict=True):
                reasons[index] = reason
        return reasons


def load(weights: FaceWeights, engine: Engine, dtype: torch.dtype) -> FaceRestorer:
    """The networks for faces, on the engine's device. `dtype`: the precision in which the restorer multiplies on CUDA;
    on the CPU it is as fast in fp32, and the other networks are small. Raises ModelNotFound when a file is damaged or
    of another kind."""
    for each in (weights.restorer, weights.detector, weights.parser):
        if each is not None:
            verify(each)
    parser = weights.parser
    return FaceRestorer(
        Detector(load_state(weights.detector.path), weights.detector.name, engine),
        load_restorer(
            load_state(weights.restorer.path),
            weights.restorer.name,
            engine,
            dtype if engine.device.type == "cuda" else torch.float32,
        ),
        Parser(load_state(parser.path), parser.name, engine) if parser else None,
    )


def _check_numbers(wanted: Faces, found: int) -> None:
    if isinstance(wanted.only, tuple) and max(wanted.only, default=-1) >= found:
        there = f"the picture has {found}, numbered from 0" if found else "the picture has none"
        raise InvalidField(f"there is no face {max(wanted.only)}: {there}", field="faces")


def _left_out(number: int, face: Face, wanted: Faces) -> str | None:
    """Why this face is not restored, in words for the caller, or None."""
    asked = (
        {"all": True, "largest": number == 0}[wanted.only] if isinstance(wanted.only, str) else number in wanted.only
    )
    if not asked:
        return "not asked for"
    return unfit(face) or (f"one too many: only the {MOST} largest are restored" if number >= MOST else None)
