"""Joins TIFF files into one of several pages (TIFF 6.0, section 2). The files are those that save.py writes: classic
TIFF in one byte order."""

import mmap
import shutil
from pathlib import Path
from typing import Literal

from server.errors import ResultImpossible

_MOST_BYTES = (1 << 32) - 2
"""Offsets have 32 bits."""
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
"""Bytes of a value, by its type, 1 … 13."""
_PLACES = {273, 324}
"""StripOffsets and TileOffsets: where the samples are."""
_DIRECTORIES = {330, 34665, 34853, 40965}
"""SubIFDs, and EXIF's directories: Exif, GPS and Interoperability."""


def append_page(page: Path, target: Path) -> None:
    """Add the one page of the file `page` to the end of `target`, which is made if it does not exist. Raises
    ResultImpossible beyond 4 GB, and OSError."""
    if not target.exists():
        shutil.copyfile(page, target)
        return
    shift = target.stat().st_size + target.stat().st_size % 2  # directories begin at even offsets
    size = shift + page.stat().st_size
    with page.open("rb") as file:
        wide = file.read(4)[2:4] in (b"+\0", b"\0+")
    if wide or size > _MOST_BYTES:
        raise ResultImpossible("the pages together have more than 4 GB, the most that a TIFF can hold")
    with target.open("r+b") as out, page.open("rb") as file:
        out.seek(shift)
        shutil.copyfileobj(file, out)
        out.flush()
        with mmap.mmap(out.fileno(), 0) as data:
            _Joiner(data, shift).join()


class _Joiner:
    def __init__(self, data: mmap.mmap, shift: int) -> None:
        """`shift`: where the added file begins."""
        self._data = data
        self._shift = shift
        self._order: Literal["big", "little"] = "big" if data[:2] == b"MM" else "little"

    def join(self) -> None:
        """Correct all offsets of the added file, and chain its directory to the last one."""
        last = 4
        while offset := self._read(last, 4):
            last = offset + 2 + 12 * self._read(offset, 2)
        first = self._read(self._shift + 4, 4) + self._shift
        self._write(last, first)
        self._correct(first)

    def _correct(self, directory: int) -> None:
        for entry in range(directory + 2, directory + 2 + 12 * self._read(directory, 2), 12):
            tag, kind, count = self._read(entry, 2), self._read(entry + 2, 2), self._read(entry + 4, 4)
            unit = _SIZES[kind] if kind < len(_SIZES) else 1
            values = entry + 8
            if unit * count > 4:
                self._write(values, self._read(values, 4) + self._shift)
                values = self._read(values, 4)
            if tag in _PLACES | _DIRECTORIES and unit == 4:
                for place in range(values, values + 4 * count, 4):
                    self._write(place, self._read(place, 4) + self._shift)
                    if tag in _DIRECTORIES:
                        self._correct(self._read(place, 4))

    def _read(self, place: int, size: int) -> int:
        return int.from_bytes(self._data[place : place + size], self._order)

    def _write(self, place: int, number: int) -> None:
        self._data[place : place + 4] = number.to_bytes(4, self._order)
