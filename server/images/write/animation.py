"""An animation on its way into a file: of each picture only what differs from the last one is written.

Nothing grows with the number of frames but the file. The one that was added last is held, to compare the next with.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.images.metadata.timing import Timing
from server.images.read.gif import GifWriter
from server.images.write.png import PngWriter
from server.images.write.save import check_image, converted, gif_words
from server.images.write.webp import WebpWriter
from server.job.formats import FORMATS
from server.job.job import Params

Box = tuple[int, int, int, int]
"""left, top, width, height"""


class Writer(Protocol):
    """Puts frames into a file of one format. What it is given replaces what is below, and all else is left."""

    STEP: int
    """Frames begin at multiples of it, across and down."""
    always_whole: bool
    """Each frame has to be the whole picture."""

    def write(self, image: pyvips.Image, left: int, top: int) -> None: ...

    def repeat(self, pixel: pyvips.Image) -> None:
        """A frame that changes nothing; `pixel`: what the last one had in its first place. Formats have no empty ones,
        and where the last one was not kept exactly, the same pixel need not become the same again."""

    def end(self) -> None: ...


class Film:
    """To be entered and left with `with`; the file is whole when it was left without an exception."""

    def __init__(self, path: Path, params: Params, timing: Timing) -> None:
        """As many frames as `timing` has must be added, in the format and with the options of `params`."""
        self._path = path
        self._params = params
        self._timing = timing
        self._frames = 0
        self._last: NDArray[Any] | None = None
        self._space = ""

    def add(self, image: pyvips.Image) -> None:
        """The next frame: of the result's size, dressed by metadata.py, as for `save`. Raises ResultImpossible, and
        pyvips.Error."""
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
        """The next frame is the same as the last one."""
        assert self._last is not None  # one was added
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
        params = self._params
        if params.format == "gif":
            return GifWriter(self._file, first, self._timing, *gif_words(first))
        if params.format == "png":
            return PngWriter(self._file, first, self._timing)
        quality = params.quality or FORMATS["webp"].default_quality
        assert params.format == "webp" and quality is not None  # the plan refuses others
        return WebpWriter(self._file, first, self._timing, quality=quality, lossless=params.lossless)

    def __enter__(self) -> "Film":
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._file:
            if error is None:
                assert self._frames == self._timing.frames, f"{self._frames} frames of {self._timing.frames} came"
                self._writer.end()


def _whole(samples: NDArray[Any]) -> Box:
    return 0, 0, samples.shape[1], samples.shape[0]


def _changed(old: NDArray[Any], new: NDArray[Any], step: int) -> Box | None:
    """The smallest box around all that differs, beginning at multiples of `step`; None, if nothing does."""
    differs = (old != new).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return None
    top, left = rows[0] // step * step, columns[0] // step * step
    return int(left), int(top), int(columns[-1] + 1 - left), int(rows[-1] + 1 - top)
