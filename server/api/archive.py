"""Several files as one ZIP archive, made while it is sent: nothing of it is held in memory or written to the disk."""

import io
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from server.blobs.base import Blob

MIME = "application/zip"
_PIECE_BYTES = 1 << 17
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP archive can state."""


class _Sink(io.RawIOBase):
    """Takes what zipfile writes, to be sent. It can't seek, so that sizes and sums come after each file."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def pieces(files: Sequence[tuple[str, Blob]]) -> Iterator[bytes]:
    """The archive of these files under these names, which are different. Pictures are compressed already, so they are
    stored as they are. Raises NotFound for a file that has been deleted meanwhile: the answer then ends early."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, blob in files:
            reader = blob.open()
            try:
                entry = zipfile.ZipInfo(name, max(_EPOCH, time.localtime(reader.modified_at)[:6]))
                entry.file_size = reader.size  # so that zipfile knows whether 64 bits are needed
                entry.external_attr = 0o644 << 16
                with archive.open(entry, "w") as target:
                    for start in range(0, reader.size, _PIECE_BYTES):
                        target.write(reader.read(start, _PIECE_BYTES))
                        yield sink.take()
            finally:
                reader.close()
    yield sink.take()


def distinct(names: Iterable[str]) -> list[str]:
    """The same names, but "a.png" a second time is "a (2).png". Case does not count: not all systems tell it apart."""
    taken: set[str] = set()
    found = []
    for name in names:
        path, number, free = PurePosixPath(name), 1, name
        while free.casefold() in taken:
            number += 1
            free = str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
        taken.add(free.casefold())
        found.append(free)
    return found
