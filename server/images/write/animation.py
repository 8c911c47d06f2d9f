"""Write an animation frame by frame: of each frame only the box that differs from the frame before.

Memory does not grow with the number of frames: only the last frame is held, to compare the next one with.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.images.metadata.timing import Timing
from server.images.read.gif import GifWriter
from server.images.write.png import PngWriter
from server.images.write.save import check_image, converted, gif_metadata, quality_of
from server.images.write.webp import WebpWriter
from server.job.job import Params

Box = tuple[int, int, int, int]
"""left, top, width, height"""


class Writer(Protocol):
    """Writes frames to a file of one format. The pixels of a frame replace those below them; all others stay."""

    STEP: int
    """The left and top of a frame are multiples of it."""
    always_whole: bool
    """Each frame must cover the whole picture."""

    def write(self, image: pyvips.Image, left: int, top: int) -> None: ...

    def repeat(self, pixel: pyvips.Image) -> None:
        """Write a frame that changes nothing. Formats have no empty frames, so it has one pixel. `pixel`: the first
        pixel of the last frame; a lossy format need not encode it to the same value again."""

    def end(self) -> None: ...


class AnimationEncoder:
    """A context manager: the file is complete when the block ends without an exception."""

    def __init__(self, path: Path, params: Params, timing: Timing) -> None:
        """Exactly as many frames as `timing` has must be added. Format and options are those of `params`."""
        self._path = path
        self._params = params
        self._timing = timing
        self._frames = 0
        self._last: NDArray[Any] | None = None
        self._space = ""

    def add(self, image: pyvips.Image) -> None:
        """Add the next frame: of the result's size, with the metadata that metadata.py attaches, as for `save`. Raises
        ResultImpossible and pyvips.Error."""
        check_image(image, self._params)
        image = converted(image, self._params).copy_memory()
        samples = image.numpy().reshape(image.height, image.width, image.bands)
        if self._last is None:
            self._space = image.interpretation
            self._writer = self._open(image)
        box = _whole(samples) if self._last is None else _changed(self._last, samples, self._writer.STEP)
        self._last = samples
        if box is None:
            self.repeat()
        else:
            self._write(_whole(samples) if self._writer.always_whole else box)

    def repeat(self) -> None:
        """Add the last frame again."""
        assert self._last is not None  # a frame was added before
        if self._writer.always_whole:
            self._write(_whole(self._last))
        else:
            self._writer.repeat(self._part((0, 0, 1, 1)))
            self._frames += 1

    def _write(self, box: Box) -> None:
        self._writer.write(self._part(box), *box[:2])
        self._frames += 1

    def _part(self, box: Box) -> pyvips.Image:
        assert self._last is not None
        left, top, width, height = box
        part = np.ascontiguousarray(self._last[top : top + height, left : left + width])
        return pyvips.Image.new_from_array(part, interpretation=self._space)

    def _open(self, first: pyvips.Image) -> Writer:
        return _WRITERS[self._params.format](self._file, first, self._timing, self._params)

    def __enter__(self) -> "AnimationEncoder":
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._file:
            if error is None:
                assert self._frames == self._timing.frames, f"{self._frames} frames of {self._timing.frames} came"
                self._writer.end()


def _gif(file: BinaryIO, first: pyvips.Image, timing: Timing, _: Params) -> Writer:
    return GifWriter(file, first, timing, *gif_metadata(first))


def _png(file: BinaryIO, first: pyvips.Image, timing: Timing, _: Params) -> Writer:
    return PngWriter(file, first, timing)


def _webp(file: BinaryIO, first: pyvips.Image, timing: Timing, params: Params) -> Writer:
    return WebpWriter(file, first, timing, quality=quality_of(params), lossless=params.lossless)


_WRITERS: dict[str, Callable[[BinaryIO, pyvips.Image, Timing, Params], Writer]] = {
    "gif": _gif,
    "png": _png,
    "webp": _webp,
}
"""Of the formats that can be animated; the plan refuses others."""


def _whole(samples: NDArray[Any]) -> Box:
    return 0, 0, samples.shape[1], samples.shape[0]


def _changed(old: NDArray[Any], new: NDArray[Any], step: int) -> Box | None:
    """The smallest box around all pixels that differ, with left and top at multiples of `step`; None if none differ."""
    differs = (old != new).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return None
    top, left = rows[0] // step * step, columns[0] // step * step
    return int(left), int(top), int(columns[-1] + 1 - left), int(rows[-1] + 1 - top)
