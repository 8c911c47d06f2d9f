"""Colours that PNG and HEIF files state in numbers are used."""

import struct
import zlib

import pytest

from server.images.metadata.cicp import CodePoints, code_points, from_heif, from_png
from server.images.metadata.icc import BT2020, D65, DISPLAY_P3, SRGB, grey_profile, rgb_profile
from tests.pictures import encoded, scene


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes) -> bytes:
    """A PNG with these chunks after its header."""
    data = encoded(scene(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def gama(exponent: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(exponent * 100_000)))


def chrm(*points: tuple[float, float]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(number * 100_000) for point in points for number in point)))


def nclx(primaries: int, transfer: int) -> bytes:
    return bytes(100) + struct.pack(">I8sHHHB", 19, b"colrnclx", primaries, transfer, 6, 0x80)


def test_without_a_word_it_is_srgb() -> None:
    assert from_png(png(), grey=False) is None
    assert from_heif(b"") is None and from_heif(nclx(1, 13)) is None and from_heif(nclx(2, 2)) is None


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(0.45455),),
        (gama(0.45455), chrm(D65, *SRGB)),
        (chunk(b"sRGB", b"\0"), gama(1.0)),
        (chunk(b"iCCP", b"x\0\0" + zlib.compress(b"")), gama(1.0)),
        (chrm(D65, *DISPLAY_P3),),
        (gama(0.0),),
        (gama(1.0), chrm((0, 0), (0, 0), (0, 0), (0, 0))),
        (gama(1.0), chrm(D65, (0.3, 0.3), (0.3, 0.3), (0.3, 0.3))),
    ],
    ids=[
        "srgb's gamma",
        "srgb's numbers",
        "srgb by name",
        "a profile",
        "no gamma",
        "no light",
        "no colours",
        "one colour",
    ],
)
def test_what_is_srgb_or_nonsense_needs_no_profile(chunks: tuple[bytes, ...]) -> None:
    assert from_png(png(*chunks), grey=False) is None


def test_gamma_and_primaries_become_a_profile() -> None:
    assert from_png(png(gama(1.0)), grey=False) == rgb_profile(SRGB, D65, 1.0)
    assert from_png(png(gama(0.5)), grey=True) == grey_profile(2.0)
    assert from_png(png(gama(0.45455), chrm(D65, *DISPLAY_P3)), grey=False) == rgb_profile(DISPLAY_P3)


def test_codes_become_a_profile() -> None:
    assert from_heif(nclx(12, 13)) == rgb_profile(DISPLAY_P3)
    assert from_heif(nclx(9, 1)) == rgb_profile(BT2020)
    assert from_png(png(chunk(b"cICP", bytes([12, 13, 0, 1])), gama(1.0)), grey=False) == rgb_profile(DISPLAY_P3)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_has_code_points_and_no_profile(transfer: int, name: str) -> None:
    coded = png(chunk(b"cICP", bytes([9, transfer, 0, 1])))
    assert from_heif(nclx(9, transfer)) is None and from_png(coded, grey=False) is None
    for found in (code_points(nclx(9, transfer), "image/avif"), code_points(coded, "image/png")):
        assert found == CodePoints(9, transfer) and found.kind == name
    assert code_points(nclx(9, 1), "image/avif") is None and code_points(nclx(9, transfer), "image/jpeg") is None
