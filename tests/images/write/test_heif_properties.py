"""AVIF files state their code points to other readers, and decode as before."""

import io

import numpy as np
import pi_heif  # type: ignore[import-untyped]
import pytest
import pyvips
from PIL import Image

from server.images.metadata.cicp import CodePoints, code_points
from server.images.read import heif
from tests import hdr


@pytest.mark.parametrize("codes", [hdr.PQ, hdr.HLG, CodePoints(12, 16, (500, 0))], ids=["PQ", "HLG", "PQ in P3"])
@pytest.mark.parametrize("lossless", [False, True])
def test_libheif_and_we_read_the_code_points_and_the_light_back(codes: CodePoints, lossless: bool) -> None:
    data = hdr.avif(hdr.light(1, 24, 32), codes, lossless=lossless, **({"quality": None} if lossless else {}))
    stated = pi_heif.open_heif(data).info["nclx_profile"]
    assert (stated["color_primaries"], stated["transfer_characteristics"]) == (codes.primaries, codes.transfer)
    assert stated["matrix_coefficients"] == (0 if lossless else 6) and stated["full_range_flag"] == 1
    assert code_points(data, "image/avif") == codes and len(list(heif.properties(data, b"colr"))) == 1


def test_libavif_and_libheif_decode_the_same_colours() -> None:
    """The matrix that the box states is the one that the encoder used."""
    picture = hdr.light(2, 24, 32)
    data = hdr.avif(picture, hdr.PQ)
    signal = hdr.coded(picture, hdr.PQ) / 65535
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255
    ours = pyvips.Image.new_from_buffer(data, "").numpy() / 65535
    assert abs(theirs - signal).max() < 0.04 and abs(ours - signal).max() < 0.04
    assert abs(theirs - ours).mean() < 0.004
