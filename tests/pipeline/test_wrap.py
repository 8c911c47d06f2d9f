"""With `wrap` a result is what the middle of an endless repetition of the source becomes."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from benchmarks.wrap import across, texture
from server.engine.engine import Engine
from server.images.read.open import open_picture
from server.job.job import Params
from server.kernels.cpu import Kernel
from server.kernels.cpu import load as load_kernel
from server.models import Model
from server.pipeline import PICTURE_STEPS, SOURCE_STEPS, Context, expect, run, take, unwrap
from server.refiners.bundled.refiner import BundledRefiner
from server.rows.resample import gather
from tests import networks
from tests.pictures import streamed, to_vips

Pixels = NDArray[Any]
Process = Callable[..., Pixels]
MakeContext = Callable[..., Context]


@pytest.fixture
def context(model: Model, refiner: BundledRefiner, tmp_path: Path) -> MakeContext:
    def context(data: Pixels | bytes, *, tile: int = 0, network: Model = model, **params: Any) -> Context:
        return Context(
            params=Params(**params),
            data=data if isinstance(data, bytes) else to_vips(data).pngsave_buffer(),
            target=tmp_path / "result",
            engine=engine(),
            load=networks.loader(network),
            load_refiner=lambda: refiner,
            max_source_pixels=10**8,
            max_result_pixels=10**8,
            tile=tile,
        )

    return context


@pytest.fixture
def process(context: MakeContext) -> Process:
    def process(samples: Pixels, **wanted: Any) -> Pixels:
        ctx = context(samples, **wanted)
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


def test_the_pass_that_adds_detail_makes_the_same_in_the_border(context: MakeContext) -> None:
    """So the joint is not the mean of two things, which would look soft."""
    ctx = context(texture(3, 40, 32), scale=4, creativity=2.0, seed=5, wrap="x")
    take(ctx, SOURCE_STEPS)
    expect(ctx)
    take(ctx, [each for each in PICTURE_STEPS if each[0] != "unwrap"])
    assert ctx.stream is not None and ctx.stream.border == (96, 0)
    canvas = gather(ctx.stream).astype(float) / 257
    before, end = canvas[:, 64:96], canvas[:, 160 + 64 : 160 + 96]
    assert np.abs(before - end).mean() < 1
    other = canvas[:, 80:112], canvas[:, 160 + 64 : 160 + 96]  # half a joint beside it
    assert np.abs(other[0] - other[1]).mean() > 5


@pytest.mark.parametrize("cuts", [(), (3, 40, 41, 90)])
def test_the_end_goes_over_into_what_precedes_the_beginning(context: MakeContext, cuts: tuple[int, ...]) -> None:
    ctx = context(texture(3, 40, 30), scale=2, wrap="xy")
    take(ctx, SOURCE_STEPS)
    assert ctx.plan is not None and ctx.plan.result_border == (32, 32)
    canvas = np.random.default_rng(3).integers(0, 65535, (60 + 64, 80 + 64, 3)).astype(np.uint16)
    canvas = canvas // 257 * 257  # which 8 bits can hold
    ctx.stream = replace(streamed(canvas, *cuts), border=(32, 32))
    unwrap.run(ctx)
    result, inside = gather(ctx.stream).astype(int), canvas[32:92, 32:112] // 257
    assert result.shape == (60, 80, 3)
    assert (result[:30, :48] == inside[:30, :48]).all()  # at most half of a side is blended
    assert far(result[:30, -1], canvas[32:62, 31] // 257) <= 1
    assert far(result[-1, :48], canvas[31, 32:80] // 257) <= 1
    middle = (canvas[32:62, 32 + 63 : 32 + 65] * 0.5 + canvas[32:62, 15:17] * 0.5) / 257
    assert np.abs(result[:30, 63:65] - middle).max() < 10


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (90, 1), (2, 3)])
@pytest.mark.parametrize(("scale", "wrap"), [(0.3, "xy"), (1, "xy"), (3.7, "x"), (3.7, "y"), (10, "xy")])
def test_every_size_is_exact(process: Process, size: tuple[int, int], scale: float, wrap: str) -> None:
    h, w = process(texture(2, *size), scale=scale, wrap=wrap).shape[:2]
    assert (w, h) == (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def test_every_frame_of_an_animation_wraps(context: MakeContext, process: Process) -> None:
    frames = [texture(number, 24, 20) for number in (2, 3)]
    stills = [process(frame, scale=3, wrap="xy") for frame in frames]
    file = io.BytesIO()
    first, *others = (Image.fromarray(each) for each in frames)
    first.save(file, "png", save_all=True, append_images=others, duration=100)
    ctx = context(file.getvalue(), scale=3, wrap="xy", animation="keep", format="png")
    run(ctx)
    with Image.open(ctx.target) as result:
        for number, still in enumerate(stills):
            result.seek(number)
            assert far(np.asarray(result.convert("RGB")), still) == 0


def test_progress_ends_at_one_and_counts_the_border(context: MakeContext) -> None:
    ctx = context(texture(0, 24, 20), scale=4, wrap="xy", creativity=1.0)
    run(ctx)
    assert ctx.progress == 1.0
    assert ctx.plan is not None and ctx.network_pixels == (24 + 2 * 58) * (20 + 2 * 54)
    assert ctx.plan.result_border == (96, 80)


def test_a_panorama_states_its_own_sizes(context: MakeContext) -> None:
    sizes = 'GPano:FullPanoWidthPixels="40" GPano:FullPanoHeightPixels="20" GPano:CroppedAreaImageWidthPixels="40"'
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {sizes}/></rdf:RDF></x:xmpmeta>'
    )
    image = to_vips(texture(4, 40, 20)).copy()
    image.set_type(pyvips.GValue.blob_type, "xmp-data", packet.encode())
    ctx = context(bytes(image.jpegsave_buffer()), scale=4, wrap="x", format="jpeg")
    run(ctx)
    written = ctx.target.read_bytes()
    for stated in (b'FullPanoWidthPixels="160"', b'FullPanoHeightPixels="80"', b'CroppedAreaImageWidthPixels="160"'):
        assert stated in written
