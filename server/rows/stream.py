"""Pictures as streams of finished rows, which libvips encodes while later rows are still being computed.

A large result never exists as a whole in memory. The network yields bands from top to bottom, which are resized one by
one; libvips encodes them in its own threads and asks for rows when it needs them. Both sides wait for each other, so
that at most two bands are in memory: one that is made and one that is read.

libvips has no loader for raw rows from a callback, but it reads uncompressed TIFF from one, without seeking back past
the header. So it gets the rows as such a file: a header of some hundred bytes, then the rows.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyvips

from server.images.read.open import Samples

_T = TypeVar("_T")

_ROWS_PER_STRIP = 16
_SEEK_SET, _SEEK_CURRENT = 0, 1


@dataclass(frozen=True)
class Stream:
    """A picture in bands of rows, which can be read once."""

    width: int
    height: int
    channels: int
    """1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    dtype: type[np.uint8] | type[np.uint16]
    bands: Iterator[Samples]
    """Rows × `width` × `channels` of `dtype`, from top to bottom; together `height` rows."""
    border: tuple[float, float] = (0, 0)
    """Pixels left and right, and above and below, that are not of the picture: they show the opposite side of one that
    wraps."""

    @classmethod
    def of(cls, samples: Samples) -> "Stream":
        """A picture that is in memory as a whole."""
        h, w, channels = samples.shape
        return cls(w, h, channels, samples.dtype.type, iter([samples]))


def encode_stream(stream: Stream, sink: Callable[[pyvips.Image], _T]) -> _T:
    """`sink(image)`, where `image` is the stream as a libvips image: to be read once, from top to bottom.

    The bands are made in this thread, and the sink runs in another. Raises what either of them raises; if both fail,
    the error of the bands, because the sink then only fails for lack of rows.
    """
    pipe = _Pipe(stream)
    done: Future[_T] = Future()

    def work() -> None:
        try:
            done.set_result(sink(pipe.image()))
        except BaseException as error:
            done.set_exception(error)
        finally:
            pipe.close()

    thread = threading.Thread(target=work, name="encode", daemon=True)
    thread.start()
    rows = 0
    try:
        with closing(pipe):
            for band in stream.bands:
                if not pipe.put(band):
                    break
                rows += len(band)
            else:
                # NOTE: libtiff fills missing rows with grey.
                assert rows == stream.height, f"only {rows} of {stream.height} rows"
                thread.join()
    finally:
        thread.join()
    return done.result()


class _Pipe:
    """Turns bands into the bytes of a TIFF file."""

    def __init__(self, stream: Stream) -> None:
        self._header = _tiff_header(stream)
        row_bytes = stream.width * stream.channels * np.dtype(stream.dtype).itemsize
        self._length = len(self._header) + stream.height * row_bytes
        self._position = 0
        self._changed = threading.Condition()
        self._band: memoryview | None = None
        """The band that is being read; None when it was read and the next may come."""
        self._band_start = len(self._header)
        self._closed = False

    def put(self, band: Samples) -> bool:
        """Wait until the last band has been read, and pass this one on. False when reading has ended."""
        data = np.ascontiguousarray(band).reshape(-1).view(np.uint8).data
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._band is None)
            if self._closed:
                return False
            self._band = data
            self._changed.notify_all()
        return True

    def close(self) -> None:
        """No more bands will be put or read: the other end must not wait for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def image(self) -> pyvips.Image:
        source = pyvips.SourceCustom()
        source.on_read(self._read)
        source.on_seek(self._seek)
        return pyvips.Image.new_from_source(source, "", access="sequential", fail_on="truncated")

    def _read(self, size: int) -> bytes | memoryview:
        """At most `size` bytes from the current position; none at the end, or when the bands ended early."""
        if self._position < len(self._header):
            part: bytes | memoryview = self._header[self._position : self._position + size]
        elif self._position < self._length:
            part = self._read_rows(size)
        else:
            return b""
        self._position += len(part)
        return part

    def _read_rows(self, size: int) -> memoryview:
        # NOTE: rows can be read once. tests/rows/test_stream.py checks that libtiff asks for them in order.
        assert self._position >= self._band_start
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or self._band is not None)
                if self._band is None:
                    return memoryview(b"")
                start = self._position - self._band_start
                if start < len(self._band):
                    return self._band[start : start + size]
                self._band_start += len(self._band)
                self._band = None
                self._changed.notify_all()

    def _seek(self, offset: int, whence: int) -> int:
        start = {_SEEK_SET: 0, _SEEK_CURRENT: self._position}.get(whence, self._length)
        self._position = start + offset
        return self._position


_SHORT, _LONG, _LONG8 = (3, "H"), (4, "I"), (16, "Q")


def _tiff_header(stream: Stream) -> bytes:
    """A BigTIFF file up to its first row: little-endian, uncompressed, in strips.

    Tags and types are those of TIFF 6.0 (Adobe, 1992); the 64-bit layout is BigTIFF's (AWare Systems, 2007).
    """
    itemsize = np.dtype(stream.dtype).itemsize
    strip_bytes = _ROWS_PER_STRIP * stream.width * stream.channels * itemsize
    total = stream.height * stream.width * stream.channels * itemsize
    starts = range(0, total, strip_bytes)
    colours = 3 if stream.channels >= 3 else 1
    tags: list[tuple[int, tuple[int, str], list[int]]] = [
        (256, _LONG, [stream.width]),
        (257, _LONG, [stream.height]),
        (258, _SHORT, [8 * itemsize] * stream.channels),  # bits per sample
        (259, _SHORT, [1]),  # no compression
        (262, _SHORT, [2 if colours == 3 else 1]),  # RGB, or grey with black at 0
        (273, _LONG8, list(starts)),  # where strips begin: relative so far
        (277, _SHORT, [stream.channels]),
        (278, _LONG, [_ROWS_PER_STRIP]),
        (279, _LONG8, [min(strip_bytes, total - start) for start in starts]),
        *([(338, _SHORT, [2])] if stream.channels > colours else []),  # alpha, not premultiplied
    ]
    directory_bytes = 8 + 20 * len(tags) + 8
    sizes = [struct.calcsize(f"<{len(values)}{kind[1]}") for _, kind, values in tags]
    data_start = 16 + directory_bytes + sum(size for size in sizes if size > 8)

    directory, values_of_long_tags = struct.pack("<Q", len(tags)), b""
    for tag, (code, letter), values in tags:
        if tag == 273:
            values = [data_start + start for start in values]
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        if len(packed) > 8:
            place = struct.pack("<Q", 16 + directory_bytes + len(values_of_long_tags))
            values_of_long_tags += packed
        else:
            place = packed.ljust(8, b"\0")
        directory += struct.pack("<HHQ", tag, code, len(values)) + place
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + directory + struct.pack("<Q", 0) + values_of_long_tags
    assert len(head) == data_start
    return head
