"""Rows laid down on disk and read back."""

import os
from pathlib import Path

import numpy as np
import pytest

from server.rows.spool import Spool
from server.rows.stream import Stream


def picture(h: int, w: int, channels: int, dtype: type[np.uint8] | type[np.uint16]) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, np.iinfo(dtype).max, (h, w, channels), dtype, endpoint=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_rows_come_back_as_they_went(tmp_path: Path, channels: int, dtype: type[np.uint8]) -> None:
    samples = picture(97, 31, channels, dtype)
    stream = Stream(31, 97, channels, dtype, iter(np.array_split(samples, 5)))
    spool = Spool(stream, tmp_path)
    assert (spool.width, spool.height, spool.channels, spool.dtype) == (31, 97, channels, dtype)
    for start, stop in ((0, 97), (13, 14), (60, 97), (0, 1)):
        assert np.array_equal(spool.rows(start, stop), samples[start:stop])
    spool.close()


def test_the_file_has_no_name_and_is_gone_when_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    spool = Spool(Stream.of(picture(20, 20, 3, np.uint8)), tmp_path)
    assert list(tmp_path.iterdir()) == []
    spool.close()
    assert before == 0 or len(os.listdir("/proc/self/fd")) <= before


def test_what_breaks_the_stream_breaks_the_spool(tmp_path: Path) -> None:
    def bands():  # type: ignore[no-untyped-def]
        yield picture(5, 20, 3, np.uint8)
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        Spool(Stream(20, 20, 3, np.uint8, bands()), tmp_path)
    assert list(tmp_path.iterdir()) == []
