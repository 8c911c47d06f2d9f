"""Scans are counted as a decoder finds them."""

import io
import struct
import time
from typing import Any

import pytest
from PIL import Image

from server.errors import SourceUnreadable
from server.images.read.jpeg import MAX_SCANS, look
from server.images.read.open import read_header
from tests.pictures import encoded, scene


def progressive(scans: int) -> bytes:
    """A valid JPEG with so many more scans: one coefficient and bit after the other, all zero."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    one = bytearray(data[starts[1] : starts[2]])  # luma, coefficients 1 … 5
    added = []
    for coefficient in range(1, 64):
        for bit in range(13, -1, -1):
            one[7], one[8], one[9] = coefficient, coefficient, (0 if bit == 13 else (bit + 1) << 4) | bit
            added.append(bytes(one))
    return data[: starts[1]] + b"".join(added[:scans]) + b"\xff\xd9"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_no_usual_file_has_too_many_parts(options: dict[str, Any]) -> None:
    assert not look(encoded(scene(300, 900), "JPEG", **options)).has_too_many_parts


def test_scans_are_counted_up_to_the_limit() -> None:
    assert not look(progressive(MAX_SCANS - 1)).has_too_many_parts
    assert look(progressive(MAX_SCANS)).has_too_many_parts


def test_what_only_looks_like_a_scan_does_not_count() -> None:
    data = encoded(scene(), "JPEG", progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 300) + b"\xff\xda\xff\xd9" * 75
    assert not look(data[:2] + comment + data[2:] + b"\xff\xda\0\x02" * 1000).has_too_many_parts
    assert not look(b"").has_too_many_parts and not look(b"\xff\xd8\xff\xda").has_too_many_parts


@pytest.mark.parametrize("hidden", [b"\xff\xfe\0\x04\xff\xd9", b"\xff\x01"])
def test_the_end_cannot_be_feigned(hidden: bytes) -> None:
    data = progressive(300)
    first = data.index(b"\xff\xda")
    assert look(data[:first] + hidden + data[first:]).has_too_many_parts


@pytest.mark.parametrize("segment", [b"\xff\xda\0\x02", b"\xff\xfe\0\x02", b"\xff\x01"])
def test_counting_does_not_take_long_itself(segment: bytes) -> None:
    started = time.process_time()
    assert look(b"\xff\xd8" + segment * 10_000_000).has_too_many_parts
    assert time.process_time() - started < 0.5


def test_it_is_refused_in_words() -> None:
    with pytest.raises(SourceUnreadable, match="more than 100 scans"):
        read_header(progressive(MAX_SCANS), 10**6)
