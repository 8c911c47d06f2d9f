"""The diffusion pass in the pipeline: what creativity does to a whole picture."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.engine.engine import Engine
from server.errors import JobCancelled, ModelNotFound
from server.job.job import Params
from server.models import Model
from server.pipeline import Context, run
from server.pipeline.refine import step as refine
from server.refiners import whole_recipe
from server.refiners.bundled.refiner import BundledRefiner
from tests import networks

Process = Callable[..., tuple[np.ndarray, Context]]


@pytest.fixture
def process(model: Model, refiner: BundledRefiner, tmp_path: Path) -> Process:
    def process(data: bytes, check: Callable[[], None] | None = None, **params: Any) -> tuple[np.ndarray, Context]:
        ctx = Context(
            params=Params(**({} if "target" in params else {"scale": 4.0}) | params),
            data=data,
            target=tmp_path / "result",
            engine=Engine(networks.CPU),
            load=networks.loader(model),
            load_refiner=lambda: refiner,
            max_source_pixels=10**8,
            max_result_pixels=10**8,
            **({"check": check} if check else {}),
        )
        run(ctx)
        return np.asarray(Image.open(ctx.target)), ctx

    return process


def photo(w: int = 48, h: int = 32, mode: str = "RGB") -> bytes:
    """Something with edges and smooth parts."""
    y, x = np.mgrid[:h, :w]
    waves = [127 + 90 * np.sin(x / 5 + k) + 30 * np.sign(np.sin(y / 7 + k)) for k in range(3)]
    picture = Image.fromarray(np.clip(np.stack(waves, axis=2), 0, 255).astype(np.uint8)).convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray((x * 255 // w).astype(np.uint8)))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def test_without_creativity_the_network_stands_alone(process: Process) -> None:
    _, ctx = process(photo())
    assert ctx.refinement is None and ctx.seconds.get("refine", 0) < 0.1


def test_what_was_done_is_told(process: Process) -> None:
    _, ctx = process(photo(), creativity=0.5, seed=7)
    assert ctx.refinement is not None
    told = ctx.refinement.to_dict()
    assert (told["refiner"], told["sha256"], told["seed"]) == ("refiner", "ab", 7)
    assert told["recipe"] == whole_recipe(0.5)


def test_more_creativity_changes_more(process: Process) -> None:
    plain = process(photo())[0].astype(int)
    distances = [np.abs(process(photo(), creativity=c)[0] - plain).mean() for c in (0.25, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances) and distances[-1] > 2 * distances[0] > 0
    assert np.array_equal(process(photo(), creativity=0.0)[0], plain)


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(process: Process) -> None:
    first, again = (process(photo(), creativity=1.0)[0] for _ in range(2))
    assert np.array_equal(first, again)
    one, other = (process(photo(), creativity=1.0, seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_the_seed_comes_from_the_source(process: Process) -> None:
    seeds = []
    for data in (photo(), photo(), photo(w=47)):
        ctx = process(data, creativity=0.5)[1]
        assert ctx.refinement is not None
        seeds.append(ctx.refinement.seed)
    assert seeds[0] == seeds[1] != seeds[2]


def test_strict_reduces_to_its_source(process: Process) -> None:
    source = Image.open(io.BytesIO(photo(90, 60)))
    result, ctx = process(photo(90, 60), creativity=-2.0)
    assert ctx.refinement is not None and ctx.refinement.refiner is None
    again = np.asarray(Image.fromarray(result).resize(source.size, Image.Resampling.BICUBIC)).astype(int)
    error = np.abs(again - np.asarray(source))
    assert error.mean() <= 1 and np.percentile(error, 99) <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("creativity", [-2.0, 1.0])
def test_grey_stays_grey_and_alpha_stays_as_it_was(process: Process, mode: str, creativity: float) -> None:
    plain, refined = process(photo(mode=mode))[0], process(photo(mode=mode), creativity=creativity)[0]
    assert refined.shape == plain.shape
    if mode in ("LA", "RGBA"):
        assert np.abs(refined[..., -1].astype(int) - plain[..., -1]).max() <= 1
    assert not np.array_equal(refined, plain)


def test_sixteen_bits_stay_sixteen(process: Process) -> None:
    ramp = np.repeat(np.linspace(5000, 60000, 64).astype(np.uint16)[None], 40, axis=0)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "png")
    result, _ = process(buffer.getvalue(), creativity=0.5)
    assert result.max() > 255 and len(np.unique(result)) > 2000


@pytest.mark.parametrize("size", [(5, 3), (1, 1), (300, 9)])
def test_any_size_comes_out_exactly(process: Process, size: tuple[int, int]) -> None:
    result, _ = process(photo(*size), creativity=1.0, scale=2.3)
    assert result.shape[1::-1] == tuple(max(1, round(side * 2.3)) for side in size)


def test_flat_colour_stays_flat(process: Process) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (130, 170, 220)).save(buffer, "png")
    result, _ = process(buffer.getvalue(), creativity=1.0)
    inner = result[16:-16, 16:-16].astype(float)
    assert inner.std(axis=(0, 1)).max() <= 1
    assert np.abs(inner.mean(axis=(0, 1)) - (130, 170, 220)).max() <= 1


@pytest.mark.slow
def test_regions_leave_no_trace(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = process(photo(100, 140), creativity=1.0)[0].astype(int)
    monkeypatch.setattr(refine, "_REGION_PIXELS", 512 * 300)
    monkeypatch.setattr(refine, "_BAND_PIXELS", 512 * 300)
    monkeypatch.setattr(refine, "_SMALLEST", 384)
    rows, columns = refine._regions(400, 560)
    assert len(rows) == 2 and len(columns) == 2
    assert np.abs(process(photo(100, 140), creativity=1.0)[0] - whole).max() <= 2


@pytest.mark.parametrize("params", [{"creativity": 1.0}, {"creativity": -2.0}, {"scale": 9.0, "creativity": 0.5}])
def test_progress_counts_networks_and_steps_from_the_start_and_never_falls(
    model: Model, refiner: BundledRefiner, tmp_path: Path, params: dict[str, Any]
) -> None:
    ctx = Context(
        params=Params(**{"scale": 4.0} | params),
        data=photo(mode="RGBA"),
        target=tmp_path / "result",
        engine=Engine(networks.CPU),
        load=networks.loader(model),
        load_refiner=lambda: refiner,
        max_source_pixels=10**8,
        max_result_pixels=10**8,
        tile=128,
    )
    seen: list[tuple[float, str]] = []
    ctx.check = lambda: seen.append((ctx.progress, ctx.stage))
    run(ctx)
    shares, stages = [share for share, _ in seen], [stage for _, stage in seen]
    assert shares == sorted(shares) and shares[0] == 0 and ctx.progress == pytest.approx(1)
    assert list(dict.fromkeys(stages)) == [
        "loading",
        "upscaling",
        *(["refining"] if params["creativity"] > 0 else []),
        "encoding",
    ]
    if params["creativity"] == 1.0:  # the steps of the diffusion pass are in it from the first tile on
        assert 0 < next(share for share in shares if share) < 0.5


def test_it_can_be_stopped_between_tiles(process: Process) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        process(photo(), check, creativity=2.0)


def test_without_its_weights_the_error_says_so(model: Model, tmp_path: Path) -> None:
    ctx = Context(
        params=Params(scale=2.0, creativity=0.5),
        data=photo(),
        target=tmp_path / "result",
        engine=Engine(networks.CPU),
        load=networks.loader(model),
        max_source_pixels=10**8,
        max_result_pixels=10**8,
    )
    with pytest.raises(ModelNotFound, match="refined"):
        run(ctx)


def test_a_picture_that_is_only_reduced_is_not_refined(process: Process) -> None:
    result, ctx = process(photo(), creativity=2.0, scale=0.5)
    assert ctx.refinement is None and result.shape == (16, 24, 3)
