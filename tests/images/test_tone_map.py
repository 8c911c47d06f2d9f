"""PQ and HLG as the standard range shows them: grey stays grey, order stays, nothing but the brightest is clipped."""

import numpy as np
import pytest
import pyvips

from server.images.metadata.cicp import CodePoints
from server.images.tone_map import WHITE_NITS, compressed, pq_light, pq_signal, tone_mapped
from tests import hdr


def shown(
    signal: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], codes: CodePoints
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """0 … 1, sRGB."""
    image = tone_mapped(pyvips.Image.new_from_array(signal, interpretation="rgb16"), codes)
    assert image.interpretation == "rgb16" and image.format == "ushort"
    return image.numpy() / 65535


@pytest.mark.parametrize("codes", [hdr.PQ, hdr.HLG], ids=["PQ", "HLG"])
def test_grey_stays_grey_and_brighter_stays_brighter(codes: CodePoints) -> None:
    ramp = np.linspace(0, 65535 if codes is hdr.HLG else 50_000, 200).astype(np.uint16)
    mapped = shown(np.repeat(ramp[None, :, None], 3, axis=2), codes)[0]
    assert np.ptp(mapped, axis=-1).max() < 1e-3
    assert mapped[0].max() == 0 and mapped[-1].min() > 0.99 and (np.diff(mapped[:, 0]) >= 0).all()
    assert (np.diff(mapped[:, 0]) > 0).mean() > 0.95


def test_the_curve_is_that_of_bt_2390() -> None:
    """Below the knee light stays, the peak becomes white."""
    light = np.array([0.1, 1, 10, 60, 203, 400, 1000])
    mapped = compressed(light, 1000.0)
    assert mapped[:4] == pytest.approx(light[:4], rel=1e-6)
    assert 100 < mapped[4] < 160 and mapped[6] == pytest.approx(WHITE_NITS, rel=1e-6) and (np.diff(mapped) > 0).all()
    assert compressed(light, WHITE_NITS) == pytest.approx(np.minimum(light, WHITE_NITS))


def test_pq_has_the_values_of_its_standard() -> None:
    """ITU-R BT.2408, table 1: 58 % is 203 cd/m²; BT.2100: 100 % is 10,000."""
    assert pq_signal(np.array([0.0, 203.0, 1000.0, 10_000.0])) == pytest.approx([0, 0.5807, 0.7518, 1], abs=1e-4)
    assert pq_light(np.array([0.5807])) == pytest.approx(203, rel=2e-3)


def test_colours_within_srgb_keep_their_hue() -> None:
    red = np.array([[[40.0, 8.0, 8.0]]])  # cd/m² in sRGB's primaries, below the knee
    linear = (shown(hdr.coded(red, hdr.PQ), hdr.PQ)[0, 0] + 0.055) / 1.055
    assert linear**2.4 * WHITE_NITS == pytest.approx(red[0, 0], rel=0.02)


def test_transparency_and_grey_pictures_pass() -> None:
    signal = np.full((2, 3, 2), 20_000, np.uint16)
    image = tone_mapped(pyvips.Image.new_from_array(signal, interpretation="grey16"), hdr.PQ)
    assert image.bands == 4 and (image.numpy()[..., 3] == 20_000).all()
