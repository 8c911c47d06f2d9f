"""Bands in at one end, a picture out at the other; and neither end waits for one that is gone."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from server.images.read.open import Samples
from server.rows.stream import Stream, encode_stream
from tests.pictures import noise, streamed

DTYPES = st.sampled_from([np.uint8, np.uint16])


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 4), DTYPES, st.lists(st.integers(1, 299), max_size=4))
def test_what_comes_out_is_what_went_in(h: int, w: int, channels: int, dtype: type[Any], cuts: list[int]) -> None:
    samples = noise(h, w, channels, dtype)
    come = encode_stream(streamed(samples, *cuts), lambda image: image.numpy())
    assert np.array_equal(come.reshape(samples.shape), samples)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_libvips_knows_what_the_channels_are(channels: int, dtype: type[Any]) -> None:
    def look(image: pyvips.Image) -> tuple[str, bool]:
        image.avg()
        return image.interpretation, image.hasalpha()

    grey, deep = channels < 3, dtype is np.uint16
    space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    assert encode_stream(streamed(noise(30, 40, channels, dtype), 7), look) == (space, channels in (2, 4))


def test_bands_are_encoded_while_later_ones_are_made(tmp_path: Path) -> None:
    """Only a few are alive at a time: the maker has to wait for the encoder."""
    made = []

    def bands() -> Iterator[Samples]:
        for _ in range(20):
            made.append(time.monotonic())
            yield noise(64, 500, 3)

    def sink(image: pyvips.Image) -> int:
        time.sleep(0.5)
        ahead = len(made)
        image.pngsave(str(tmp_path / "result.png"))
        return ahead

    assert encode_stream(Stream(500, 20 * 64, 3, np.uint8, bands()), sink) <= 3
    assert len(made) == 20


def test_what_goes_wrong_with_the_bands_ends_the_sink_and_is_raised(tmp_path: Path) -> None:
    def bands() -> Iterator[Samples]:
        yield noise(10, 100, 3)
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        encode_stream(
            Stream(100, 1000, 3, np.uint8, bands()), lambda image: image.pngsave(str(tmp_path / "result.png"))
        )
    assert not [thread for thread in threading.enumerate() if thread.name == "encode"]


def test_a_sink_that_fails_ends_the_bands_and_is_raised() -> None:
    made = 0

    def bands() -> Iterator[Samples]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield noise(10, 100, 3)

    with pytest.raises(pyvips.Error, match="nowhere"):
        encode_stream(Stream(100, 10_000, 3, np.uint8, bands()), lambda image: image.pngsave("/nowhere/result.png"))
    assert made < 1000


def test_bands_that_end_early_are_an_error_not_a_grey_bottom(tmp_path: Path) -> None:
    stream = Stream(100, 1000, 3, np.uint8, iter([noise(500, 100, 3)]))
    with pytest.raises(AssertionError, match="only 500 of 1000 rows"):
        encode_stream(stream, lambda image: image.pngsave(str(tmp_path / "result.png")))
