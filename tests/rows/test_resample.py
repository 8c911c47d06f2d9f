"""Pictures are resized as Pillow does it in floats, in bands as well as whole, by our kernels as well as by torch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.errors import OutOfMemory
from server.images.read.open import Samples
from server.kernels.cpu import Kernel, load
from server.kernels.cpu.lanczos import Filter
from server.rows import resample as resample_module
from server.rows.resample import gather, resample, resized, taps
from server.rows.stream import Stream
from tests.pictures import noise, streamed

SIDES = st.integers(6, 90)
FAR = 1 / 1000
"""Beyond rounding, in levels of 8 bits."""


@pytest.fixture(params=["kernel", "torch"])
def kernel(request: pytest.FixtureRequest) -> Kernel | None:
    return the_kernel() if request.param == "kernel" else None


def the_kernel() -> Kernel:
    found = load()
    if not isinstance(found, Kernel):
        pytest.skip(f"no own kernels here: {found}")
    return found


def pillows(samples: Samples, size: tuple[int, int]) -> Any:
    """Of each channel by itself, without rounding."""
    planes = (Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(samples, 2, 0))
    return np.stack([np.asarray(each.resize(size, Image.Resampling.LANCZOS)) for each in planes], axis=2)


@settings(max_examples=80)
@given(
    source=st.one_of(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 6), st.integers(1, 6))),
    size=st.tuples(SIDES, SIDES),
    channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    cuts=st.lists(st.integers(1, 89), max_size=4),
    own=st.booleans(),
)
def test_it_is_what_pillow_computes(
    source: tuple[int, int],
    size: tuple[int, int],
    channels: int,
    dtype: type[Any],
    cuts: list[int],
    own: bool,
) -> None:
    samples = noise(*source, channels, dtype)
    top = np.iinfo(dtype).max
    result = gather(resized(streamed(samples, *cuts), size, dtype, the_kernel() if own else None))
    assert result.dtype == dtype and result.shape == (size[1], size[0], channels)
    error = abs(result - np.clip(pillows(samples, size), 0, top)).max()
    assert error <= 0.5 + FAR * top / 255


@pytest.mark.parametrize("size", [(1000, 900), (333, 250), (1201, 1180), (40, 1000), (1000, 40), (1, 1)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_in_bands_it_gives_the_bytes_that_it_gives_of_the_whole(
    size: tuple[int, int], channels: int, kernel: Kernel | None
) -> None:
    samples = noise(900, 1000, channels)
    in_bands = gather(resized(streamed(samples, 100, 101, 640), size, np.uint8, kernel))
    whole = resample(samples, size, kernel)
    assert abs(in_bands.astype(int) - whole).max() <= (kernel is None)  # how torch rounds a product depends on its size


@pytest.mark.parametrize("ratio", [0.31, 0.8, 1, 16 / 15, 1.25, 3])
def test_nothing_moves(ratio: float, kernel: Kernel | None) -> None:
    """A ramp stays where it is: the corners of both pictures coincide."""
    width = 300
    ramp = np.broadcast_to((np.arange(width, dtype=np.uint16) * 200)[None, :, None], (40, width, 1))
    result = resample(np.ascontiguousarray(ramp), (round(width * ratio), 40), kernel)[20, :, 0]
    expected = ((np.arange(len(result)) + 0.5) * width / len(result) - 0.5) * 200
    inner = slice(round(12 * ratio) + 1, -round(12 * ratio) - 1)
    assert abs(result - expected)[inner].max() < 5  # a fortieth of a pixel: Lanczos does not keep ramps exactly


def test_depths_are_converted_with_one_rounding(kernel: Kernel | None) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    shallow = gather(resized(streamed(ramp, 50), (256, 256), np.uint8, kernel))
    assert np.array_equal(shallow, (ramp.astype(np.uint32) + 128) // 257)
    deep = gather(resized(Stream.of(shallow), (256, 256), np.uint16, kernel))
    assert np.array_equal(deep, shallow.astype(np.uint16) * 257)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flat_colours_stay(channels: int, dtype: type[Any], kernel: Kernel | None) -> None:
    colour = np.array([0, 101, 200, 255][-channels:], dtype) * dtype(1 if dtype is np.uint8 else 257)
    samples = np.broadcast_to(colour, (37, 53, channels)).copy()
    for size in ((19, 7), (53, 37), (100, 90), (1, 1), (54, 37)):
        result = resample(samples, size, kernel)
        assert result.shape == (size[1], size[0], channels) and result.dtype == dtype
        assert (result == colour).all()


def test_colours_under_transparent_pixels_do_not_bleed(kernel: Kernel | None) -> None:
    samples = np.zeros((40, 40, 4), np.uint8)
    samples[..., 0] = 255  # red, but only the right half is to be seen, which is blue
    samples[:, 20:] = (0, 0, 255, 255)
    result = resample(samples, (60, 60), kernel)
    seen = result[..., 3] > 8
    assert seen[:, 31:].all() and not seen[:, :25].any()
    assert (result[seen][:, 0] == 0).all() and (result[seen][:, 2] >= 250).all()


def test_alpha_is_resized_as_any_channel(kernel: Kernel | None) -> None:
    samples = noise(50, 70, 2)
    alpha = np.ascontiguousarray(samples[..., 1:])
    assert np.array_equal(resample(samples, (99, 61), kernel)[..., 1:], resample(alpha, (99, 61), kernel))


def test_rows_come_as_soon_as_they_can() -> None:
    stream = resized(streamed(noise(512, 50, 3), *range(64, 512, 64)), (60, 600), np.uint8)
    rows = [len(band) for band in stream.bands]
    assert len(rows) == 8 and sum(rows) == 600


def test_parts_are_small_whatever_the_shape(kernel: Kernel | None) -> None:
    for source, size in (((16, 16), (4000, 4000)), ((3000, 16), (32, 6000)), ((2000, 300), (300, 2))):
        bands = [band.nbytes for band in resized(Stream.of(noise(*source, 3)), size, np.uint8, kernel).bands]
        assert sum(bands) == size[0] * size[1] * 3 and max(bands) <= resample_module._PART_BYTES


@pytest.mark.parametrize("size", [(40, 3), (1, 1), (300, 5)])
def test_a_strong_reduction_goes_in_steps_and_comes_out_nearly_the_same(
    size: tuple[int, int], kernel: Kernel | None
) -> None:
    smooth = np.asarray(Image.fromarray(noise(30, 20, 3)).resize((400, 2000), Image.Resampling.BICUBIC))
    assert abs(resample(smooth, size, kernel) - pillows(smooth, size)).max() < 4


def test_a_picture_of_that_size_is_not_even_copied(kernel: Kernel | None) -> None:
    samples = noise(40, 50, 3)
    assert resample(samples, (50, 40), kernel) is samples


def test_colours_under_transparent_pixels_survive_another_depth(kernel: Kernel | None) -> None:
    samples = np.full((4, 4, 4), 200, np.uint8)
    samples[..., 3] = 0
    assert (gather(resized(Stream.of(samples), (4, 4), np.uint16, kernel)) == samples.astype(np.uint16) * 257).all()


def test_memory_that_runs_out_is_an_error_of_ours(kernel: Kernel | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory for a few rows of a picture")

    monkeypatch.setattr(Filter, "__call__", none)
    monkeypatch.setattr(resample_module._Torch, "__call__", none)
    with pytest.raises(OutOfMemory):
        resample(noise(40, 50, 3), (60, 60), kernel)


def test_weights_add_up_and_lie_inside() -> None:
    for source, result in ((1, 1), (1, 7), (5, 3), (4320, 4608), (1000, 7), (2, 90)):
        axis = taps(source, result)
        assert np.allclose(axis.weights.sum(axis=1), 1, atol=1e-6)
        assert axis.starts.min() >= 0 and axis.starts.max() + axis.count <= source
        assert (np.diff(axis.starts) >= 0).all()


@pytest.mark.parametrize("result", [(36, 50), (100, 67), (31, 18)])
def test_between_borders_it_is_the_same_place(kernel: Kernel | None, result: tuple[int, int]) -> None:
    """The middle of a picture that repeats, from one border to another, in whatever steps."""
    samples, (w, h) = noise(25, 36, 3), result
    around = np.pad(samples, ((60, 60), (50, 50), (0, 0)), mode="wrap")
    stream = replace(streamed(around, 31, 90), border=(50, 60))
    small = resized(stream, (w + 10, h + 14), np.uint8, kernel, (5, 7))
    assert small.border == (5, 7)
    inside = gather(small)[7 : 7 + h, 5 : 5 + w]
    again = resized(replace(streamed(around, 145), border=(50, 60)), (w, h), np.uint8, kernel)
    assert (gather(again) == inside).all()
    large = resample(np.tile(samples, (5, 5, 1)), (5 * w, 5 * h), kernel)
    assert np.abs(large[2 * h : 3 * h, 2 * w : 3 * w].astype(int) - inside).max() <= 1


def test_a_border_is_cut_off_exactly_also_where_nothing_is_resized(kernel: Kernel | None) -> None:
    samples = noise(40, 50, 4)
    stream = replace(Stream.of(samples), border=(6, 4))
    assert (gather(resized(stream, (38, 32), np.uint8, kernel)) == samples[4:36, 6:44]).all()


def test_a_border_stays_in_place_when_a_picture_is_reduced_in_steps(kernel: Kernel | None) -> None:
    ramp = np.repeat(np.linspace(0, 255, 3000).astype(np.uint8), 40).reshape(3000, 40, 1)
    stream = replace(Stream.of(ramp), border=(0, 500))
    middle = gather(resized(stream, (40, 21), np.uint16, kernel, (0, 0.5)))[:, 20, 0]
    wanted = (500 + 2000 * (np.arange(21) / 20)) / 2999 * 65535
    assert np.abs(middle - wanted).max() < 200
