"""With `wrap` a result is what the middle of an endless repetition of the source becomes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.wrap import across, texture
from server.engine.engine import Engine
from server.images.read.open import open_picture
from server.job.job import Params
from server.kernels.cpu import Kernel
from server.kernels.cpu import load as load_kernel
from server.models import Model
from server.pipeline import Context, run
from server.refiners.bundled.refiner import BundledRefiner, load
from server.weights.catalog import FOLDER
from tests import networks
from tests.pictures import to_vips

Pixels = NDArray[Any]
Process = Callable[..., Pixels]


@pytest.fixture(scope="module")
def model() -> Model:
    return networks.load(networks.BUNDLED)


@pytest.fixture(scope="module")
def refiner() -> BundledRefiner:
    path = FOLDER / "bundled" / "refiner.safetensors"
    return load(path, name="refiner", sha256="ab", device=networks.CPU, dtype=torch.float32)


@pytest.fixture
def process(model: Model, refiner: BundledRefiner, tmp_path: Path) -> Process:
    def process(samples: Pixels, *, tile: int = 0, network: Model = model, **params: Any) -> Pixels:
        ctx = Context(
            params=Params(**params),
            data=to_vips(samples).pngsave_buffer(),
            target=tmp_path / "result",
            engine=engine(),
            load=networks.loader(network),
            load_refiner=lambda: refiner,
            max_source_pixels=10**8,
            max_result_pixels=10**8,
            tile=tile,
        )
        run(ctx)
        return samples_of(ctx.target.read_bytes())

    return process


def engine() -> Engine:
    found = load_kernel()
    return Engine(networks.CPU, kernel=found if isinstance(found, Kernel) else None)


def samples_of(data: bytes) -> Pixels:
    image = open_picture(data, 10**9).copy_memory()
    result: Pixels = image.numpy().reshape(image.height, image.width, image.bands)
    return result


def repeated(process: Process, samples: Pixels, size: tuple[int, int], wrap: str = "xy", **params: Any) -> Pixels:
    """What the middle of 3 copies along each axis, or of more of small pictures, becomes at `size`."""
    (h, w), (width, height) = samples.shape[:2], size
    columns, rows = (3 + 2 * (40 // side) if axis in wrap else 1 for axis, side in (("x", w), ("y", h)))
    result = process(np.tile(samples, (rows, columns, 1)), size=(columns * width, rows * height), **params)
    left, top = columns // 2 * width, rows // 2 * height
    return result[top : top + height, left : left + width]


def far(ours: Pixels, theirs: Pixels) -> int:
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize(
    ("size", "result", "creativity", "wrap"),
    [
        ((42, 20), (168, 80), 0.0, "x"),  # the network alone; above and below are ordinary borders
        ((20, 42), (55, 114), 0.0, "y"),  # and a resampling
        ((42, 15), (308, 112), 0.0, "x"),  # two passes
        ((42, 30), (42, 120), 0.0, "y"),  # along one side alone
        ((42, 41), (23, 17), 0.0, "xy"),  # resampling alone
        ((42, 20), (127, 61), -2.0, "x"),  # corrected by the source
        ((3, 2), (12, 8), -2.0, "xy"),
        ((1, 1), (7, 5), 0.0, "xy"),
    ],
)
def test_it_is_the_middle_of_the_repeated_picture(
    process: Process, size: tuple[int, int], result: tuple[int, int], creativity: float, wrap: str
) -> None:
    samples = texture(3, *size)
    wrapped = process(samples, size=result, creativity=creativity, wrap=wrap)
    assert far(wrapped, repeated(process, samples, result, wrap, creativity=creativity)) <= 1
    if min(size) > 1:
        assert far(process(samples, size=result, creativity=creativity), wrapped) > 1


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("scale", [2.5, 0.5])
def test_alpha_grey_and_16_bits_wrap_too(process: Process, channels: int, scale: float) -> None:
    colours = texture(6, 24, 20).astype(np.uint16) * 257
    alpha = np.roll(colours[..., :1] // 2 + 20_000, 7, axis=1)
    samples = np.concatenate((colours[..., :channels] if channels < 3 else colours, alpha), axis=2)[..., -channels:]
    result = round(24 * scale), round(20 * scale)
    wrapped = process(samples, size=result, wrap="xy")
    assert wrapped.dtype == np.uint16
    assert far(wrapped, repeated(process, samples, result)) <= 257


def test_tiles_are_not_seen(process: Process) -> None:
    samples = texture(11, 50, 30)
    whole, tiled = (process(samples, scale=4, wrap="xy", tile=tile) for tile in (0, 88))
    assert far(whole, tiled) <= 1


@pytest.mark.parametrize("creativity", [-2.0, 0.0, 2.0])
def test_the_step_across_the_border_is_as_the_steps_inside(process: Process, creativity: float) -> None:
    for number in (1,) if creativity > 0 else (1, 4, 6, 12):  # all are in benchmarks/wrap.py
        samples = texture(number, 32, 30)
        wrapped, plain = (
            process(samples, scale=4, creativity=creativity, wrap=wrap, seed=5) for wrap in ("xy", "none")
        )
        assert max(across(wrapped).values()) <= 1, number
        assert max(across(plain).values()) > 1, number


def test_a_deep_network_whose_halo_is_an_estimate_leaves_no_step(process: Process, tmp_path: Path) -> None:
    network = networks.load(networks.save(networks.rrdbnet(), tmp_path / "rrdb.pth"))
    samples = texture(3, 40, 32)
    wrapped, plain = (process(samples, scale=4, network=network, wrap=wrap) for wrap in ("xy", "none"))
    assert max(across(wrapped).values()) <= 1 < max(across(plain).values())


def test_the_pass_that_adds_detail_repeats_its_noise(process: Process) -> None:
    """A shifted texture is the same texture. Without noise that repeats, the joint would be an average of two."""
    samples = np.full((24, 48, 3), 128, np.uint8) + texture(15, 48, 24) // 8
    result = process(samples, scale=4, creativity=2.0, seed=5, wrap="xy").astype(float)
    grey = result.mean(axis=2)
    fine = grey - (np.roll(grey, 1, 1) + np.roll(grey, -1, 1)) / 2
    inside = [fine[:, x : x + 16].std() for x in range(16, 144, 16)]
    assert fine[:, -32:-16].std() > 0.8 * min(inside)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (90, 1), (2, 3)])
@pytest.mark.parametrize(("scale", "wrap"), [(0.3, "xy"), (1, "xy"), (3.7, "x"), (3.7, "y"), (10, "xy")])
def test_every_size_is_exact(process: Process, size: tuple[int, int], scale: float, wrap: str) -> None:
    h, w = process(texture(2, *size), scale=scale, wrap=wrap).shape[:2]
    assert (w, h) == (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def test_every_frame_of_an_animation_wraps(model: Model, process: Process, tmp_path: Path) -> None:
    frames = [texture(number, 24, 20) for number in (2, 3)]
    file = io.BytesIO()
    first, *others = (Image.fromarray(each) for each in frames)
    first.save(file, "png", save_all=True, append_images=others, duration=100)
    params = Params(scale=3, wrap="xy", animation="keep", format="png")
    ctx = Context(
        params=params,
        data=file.getvalue(),
        target=tmp_path / "animation",
        engine=engine(),
        load=networks.loader(model),
        max_source_pixels=10**8,
        max_result_pixels=10**8,
    )
    run(ctx)
    with Image.open(ctx.target) as result:
        for number, frame in enumerate(frames):
            result.seek(number)
            assert far(np.asarray(result.convert("RGB")), process(frame, scale=3, wrap="xy")) == 0


def test_progress_ends_at_one_and_counts_the_border(model: Model, refiner: BundledRefiner, tmp_path: Path) -> None:
    ctx = Context(
        params=Params(scale=4, wrap="xy", creativity=1.0),
        data=to_vips(texture(0, 24, 20)).pngsave_buffer(),
        target=tmp_path / "result",
        engine=engine(),
        load=networks.loader(model),
        load_refiner=lambda: refiner,
        max_source_pixels=10**8,
        max_result_pixels=10**8,
    )
    run(ctx)
    assert ctx.progress == 1.0
    assert ctx.plan is not None and ctx.network_pixels == (24 + 2 * 58) * (20 + 2 * 54)
    assert ctx.plan.result_border == (96, 80)


def test_a_panorama_states_its_own_sizes(model: Model, tmp_path: Path) -> None:
    sizes = 'GPano:FullPanoWidthPixels="40" GPano:FullPanoHeightPixels="20" GPano:CroppedAreaImageWidthPixels="40"'
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {sizes}/></rdf:RDF></x:xmpmeta>'
    )
    image = to_vips(texture(4, 40, 20)).copy()
    image.set_type(pyvips.GValue.blob_type, "xmp-data", packet.encode())
    ctx = Context(
        params=Params(scale=4, wrap="x", format="jpeg"),
        data=image.jpegsave_buffer(),
        target=tmp_path / "result",
        engine=engine(),
        load=networks.loader(model),
        max_source_pixels=10**8,
        max_result_pixels=10**8,
    )
    run(ctx)
    written = ctx.target.read_bytes()
    for stated in (b'FullPanoWidthPixels="160"', b'FullPanoHeightPixels="80"', b'CroppedAreaImageWidthPixels="160"'):
        assert stated in written
