"""A picture in a temporary file, so that any of its rows can be read without holding it in memory."""

import os
import tempfile
from pathlib import Path

import numpy as np

from server.images.read.open import Samples
from server.rows.stream import Stream


class Spool:
    """The file has no name: the system removes it when the process ends."""

    def __init__(self, stream: Stream, folder: Path) -> None:
        """Write all of `stream` to a file in `folder`."""
        self.width, self.height, self.channels, self.dtype = stream.width, stream.height, stream.channels, stream.dtype
        self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115  (closed by `close`)
        try:
            for band in stream.bands:
                data = np.ascontiguousarray(band).reshape(-1).view(np.uint8).data
                while data:  # the system may write less than it is given, above all beyond 2 GiB
                    data = data[self._file.write(data) :]
        except BaseException:
            self._file.close()
            raise

    def rows(self, start: int, stop: int) -> Samples:
        """(stop − start) × width × channels."""
        row_bytes = self.width * self.channels * np.dtype(self.dtype).itemsize
        samples: Samples = np.empty((stop - start, self.width, self.channels), self.dtype)  # type: ignore[assignment]
        data, offset = samples.reshape(-1).view(np.uint8).data, start * row_bytes
        while data:  # the system may return less than asked for, above all beyond 2 GiB
            read = os.preadv(self._file.fileno(), [data], offset)
            assert read, "the spool ends early"
            data, offset = data[read:], offset + read
        return samples

    def close(self) -> None:
        self._file.close()
