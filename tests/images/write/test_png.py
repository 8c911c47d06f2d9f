"""Other programs read the same samples and metadata from a written PNG."""

import io
from pathlib import Path

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.images.write.png import save_png
from tests.paths import PHOTO
from tests.pictures import scene, to_vips


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_kind_is_read_back_bit_by_bit(tmp_path: Path, channels: int, dtype: type[np.generic]) -> None:
    samples = scene(301, 203, channels, dtype)
    save_png(to_vips(samples), tmp_path / "a.png")
    read = pyvips.Image.new_from_file(str(tmp_path / "a.png"), fail_on="warning")
    assert (
        np.array_equal(read.numpy().reshape(samples.shape), samples)
        and read.interpretation == to_vips(samples).interpretation
    )
    if dtype is np.uint8:  # Pillow reads through another library, and 16 bits only of grey
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.asarray(image).reshape(samples.shape), samples)


@settings(max_examples=25)
@given(w=st.integers(1, 3000), h=st.integers(1, 900), seed=st.integers(0, 9))
def test_bands_of_every_size_join(tmp_path_factory: pytest.TempPathFactory, w: int, h: int, seed: int) -> None:
    samples = np.random.default_rng(seed).integers(0, 255, (h, w, 3), np.uint8)
    path = tmp_path_factory.mktemp("png") / "a.png"
    save_png(to_vips(samples), path)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert np.array_equal(np.asarray(image), samples)


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    noise = to_vips(np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8))
    save_png(noise, tmp_path / "a.png")
    save_png(noise, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_it_is_no_larger_than_libpngs_fast_settings(tmp_path: Path) -> None:
    image = pyvips.Image.new_from_file(str(PHOTO)).resize(3, kernel="lanczos3")
    save_png(image, tmp_path / "a.png")
    image.pngsave(str(tmp_path / "b.png"), compression=2, filter="up")
    assert (tmp_path / "a.png").stat().st_size < 1.1 * (tmp_path / "b.png").stat().st_size


def test_a_picture_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    whole = to_vips(scene(800, 800)).pngsave_buffer()
    part = pyvips.Image.pngload_buffer(whole[: len(whole) // 2], access="sequential", fail_on="error")
    with pytest.raises(pyvips.Error):
        save_png(part, tmp_path / "a.png")


def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(OSError, match="No space"):
        save_png(to_vips(np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)), Path("/dev/full"))
