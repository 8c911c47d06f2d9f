"""A picture laid down on disk, row by row, so that any part of it can be read again without holding it in memory."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyvips

from server.files.picture import Samples
from server.stream import Stream, pour


class Spool:
    """The file has no name: it is gone with the process, however that ends."""

    def __init__(self, stream: Stream, finish: Callable[[pyvips.Image], pyvips.Image], folder: Path) -> None:
        """Take all of `stream`, as `finish` makes it (8 or 16 bits), into a file in `folder`."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as we do)

        def write(image: pyvips.Image) -> tuple[int, int, int, str]:
            image = finish(image)
            image.rawsave_target(pyvips.Target.new_to_descriptor(self._file.fileno()))
            return image.width, image.height, image.bands, image.format

        try:
            self.width, self.height, self.channels, form = pour(stream, write)
        except BaseException:
            self._file.close()
            raise
        self.dtype: type[np.uint8] | type[np.uint16] = np.uint8 if form == "uchar" else np.uint16

    def rows(self, start: int, stop: int) -> Samples:
        """(stop − start) × width × channels."""
        row_bytes = self.width * self.channels * np.dtype(self.dtype).itemsize
        samples: Samples = np.empty((stop - start, self.width, self.channels), self.dtype)  # type: ignore[assignment]
        data, offset = samples.reshape(-1).view(np.uint8).data, start * row_bytes
        while data:  # the system may give less than asked for, above all beyond 2 GiB
            read = os.preadv(self._file.fileno(), [data], offset)
            assert read, "the spool ends early"
            data, offset = data[read:], offset + read
        return samples

    def close(self) -> None:
        self._file.close()
