"""How many times a JPEG file goes over its picture: progressive ones, at most a few dozen times. Each costs a pass over
all coefficients, however few bytes it has, so that a file of thousands keeps a decoder busy for minutes."""

import re

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Not those that stand within a scan: a stuffed FF, or a restart (ITU-T T.81, B.1.1.2)."""
_TEM, _EOI, _SOS = 0x01, 0xD9, 0xDA


MAX_SCANS = 100
"""A few dozen are the most that encoders make."""
_MAX_SEGMENTS = 100_000
"""Beyond which looking for more would itself take long."""


def is_tiresome(data: bytes) -> bool:
    """Whether it has more than MAX_SCANS, from one marker to the next up to the end of the picture. What follows that,
    such as a film, does not count."""
    scans, place = 0, 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or (code := data[found.start() + 1]) == _EOI:
            return False
        place = found.end()
        if code != _TEM:  # the only other one without a length
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
        scans += code == _SOS
        if scans > MAX_SCANS:
            return True
    return True
