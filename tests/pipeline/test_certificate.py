"""Certificates: the figures, computed again by others, and what a false one is found by."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.engine.engine import Engine
from server.errors import InvalidField, InvalidRequest, JobCancelled
from server.job.formats import FORMATS
from server.job.job import Params
from server.models import Model
from server.pipeline import Context, run
from server.pipeline.certificate import certify, differences, known_of
from server.rows.certificate import Certificate, Known, measure
from tests import moving, networks
from tests.pictures import noise, streamed
from tests.pipeline.recomputed import recomputed

Make = Callable[..., tuple[Certificate, Path, Path]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """It changes every pixel, but keeps the picture."""
    net = networks.srvgg(8, 2)
    with networks.torch.no_grad():
        net.body[-1].weight.mul_(0.15)  # type: ignore[union-attr,index]
    return networks.load(networks.save(net, tmp_path_factory.mktemp("net") / "small.pth"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(networks.CPU)


@pytest.fixture
def make(model: Model, engine: Engine, tmp_path: Path) -> Make:
    """The certificate of a result, and both files."""

    def made(data: bytes, **options: Any) -> tuple[Certificate, Path, Path]:
        settings = {name: options.pop(name) for name in ("tile", "check") if name in options}
        params = Params(certificate=True, **{"scale": 3.0, **options})
        source, target = tmp_path / "source", tmp_path / f"result{FORMATS[params.format].suffix}"
        source.write_bytes(data)
        ctx = Context(
            params=params,
            data=data,
            target=target,
            engine=engine,
            max_source_pixels=10**8,
            max_result_pixels=10**8,
            load=networks.loader(model),
            **settings,
        )
        run(ctx)
        assert ctx.certificate is not None and "certificate" in ctx.seconds
        return ctx.certificate, source, target

    return made


def photo(rng: np.random.Generator, w: int, h: int, mode: str) -> Image.Image:
    """Smooth, with edges and some noise; the alpha of some is not opaque."""
    coarse = rng.integers(0, 256, (max(2, h // 6), max(2, w // 6), 4), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse, "RGBA").resize((w, h), Image.Resampling.BICUBIC)).astype(np.int64)
    pixels = np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def file(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heat(certificate: Certificate) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(certificate.heat_map)) as image:
        assert image.mode == "L"
        return np.asarray(image, np.float64)


def test_others_compute_the_same_figures_for_100_pictures(make: Make) -> None:
    rng = np.random.default_rng(7)
    furthest = 0.0
    for number in range(100):
        w, h = (int(each) for each in rng.integers(1, 30, 2))
        mode = ("RGB", "L", "RGBA", "LA")[number % 4]
        exif = Image.Exif()
        exif[0x112] = int(rng.integers(1, 9))
        # Decoders of lossy files round colours differently, so that these are compared in grey.
        lossy = mode == "L" and number % 8 == 1
        data = file(photo(rng, w, h, mode), "jpeg" if lossy else "png", exif=exif)
        kind = "jpeg" if lossy else ("png", "tiff", "webp", "png", "gif")[number % 5]
        scale = float(rng.uniform(0.4, 4.5)) if number % 3 else float(rng.integers(1, 5))
        options: dict[str, Any] = {"format": kind, "lossless": kind == "webp", "scale": scale}
        certificate, source, target = make(data, tile=int(number % 2) * 16, **options)
        figures, map_ = recomputed(source, target, certificate.facts)
        for name in ("mean", "p99", "max"):
            furthest = max(furthest, abs(certificate.facts["difference"][name] - figures["difference"][name]))
        for name in ("mean", "local"):
            furthest = max(furthest, abs(certificate.facts["drift"][name] - figures["drift"][name]))
        assert furthest < 1, (number, certificate.facts, figures)
        assert certificate.facts["fine_energy"] == pytest.approx(figures["fine_energy"], abs=0.002)
        seams = certificate.facts["seams"]
        assert (seams is None) == (figures["seams"] is None)
        assert seams is None or seams == pytest.approx(figures["seams"], abs=0.01)
        assert np.abs(heat(certificate) - map_).max() <= 1
    assert furthest < 0.1  # far from the whole level that is promised


def test_the_figures_do_not_depend_on_the_bands() -> None:
    source, result = noise(11, 7, 3), noise(50, 23, 3, np.uint16)
    known = Known((9,), (20,), ((1.0, 1.0, 6.0, 9.0),))
    whole, map_ = measure(source, streamed(result), known)
    for cuts in ((1, 2, 3, 4), (25,), (7, 20, 21, 49), range(1, 50)):
        figures, other = measure(source, streamed(result, *cuts), known)
        assert not list(differences(whole, figures))
        assert np.array_equal(other, map_)


def test_repeated_pixels_differ_nowhere_and_a_linear_enlargement_has_no_fine_energy() -> None:
    source = noise(20, 30, 3)
    repeated = source.repeat(4, axis=0).repeat(4, axis=1)
    figures, _ = measure(source, streamed(repeated), Known())
    assert figures["difference"] == {"mean": 0, "p99": 0, "max": 0} and figures["drift"] == {"mean": 0, "local": 0}
    linear = np.asarray(Image.fromarray(source).resize((120, 80), Image.Resampling.BILINEAR))
    figures, map_ = measure(source, streamed(linear), Known())
    assert figures["fine_energy"] < 1e-3 and map_.max() <= 4 * 0.6, "only rounding is left"


def test_what_is_drawn_into_a_result_shows_where_it_is(make: Make) -> None:
    data = file(photo(np.random.default_rng(1), 60, 40, "RGB"))
    certificate, source, target = make(data, scale=4)
    with Image.open(target) as opened:
        pixels = np.array(opened)
    pixels[80:96, 120:136] = 255 - pixels[80:96, 120:136]
    target.write_bytes(file(Image.fromarray(pixels)))
    changed = certify(data, target.read_bytes(), known_of(certificate.facts)[0])
    said = list(differences(certificate.facts, changed.facts))
    assert any(each.startswith("difference.max: the certificate says") for each in said)
    grown = heat(changed) - heat(certificate)
    y, x = np.unravel_index(grown.argmax(), grown.shape)
    assert 20 <= y < 24 and 30 <= x < 34 and (np.delete(grown, range(20, 24), 0) == 0).all()


def test_the_joints_of_tiles_are_those_of_the_engine_in_pixels_of_the_result(make: Make) -> None:
    data = file(photo(np.random.default_rng(2), 120, 100, "RGB"))
    certificate, _, _ = make(data, scale=3, tile=64)
    tiles = certificate.facts["tiles"]
    assert len(tiles["columns"]) >= 1 and all(0 < each < 360 and each % 3 == 0 for each in tiles["columns"])
    assert len(tiles["rows"]) >= 1 and all(0 < each < 300 and each % 3 == 0 for each in tiles["rows"])
    assert certificate.facts["seams"] is not None
    repeated, _, _ = make(data, scale=3, tile=64, wrap="xy")
    assert repeated.facts["tiles"] != tiles, "its border is computed too"
    assert repeated.facts["tiles"]["columns"] and all(0 < each < 360 for each in repeated.facts["tiles"]["columns"])
    assert repeated.facts["difference"]["mean"] == pytest.approx(certificate.facts["difference"]["mean"], rel=0.3)
    whole, _, _ = make(data, scale=3)
    assert whole.facts["tiles"] == {"columns": [], "rows": []} and whole.facts["seams"] is None


def test_tiles_that_do_not_fit_together_have_a_high_score() -> None:
    rng = np.random.default_rng(2)
    source = photo(rng, 120, 100, "RGB")
    enlarged = np.asarray(source.resize((480, 400), Image.Resampling.BICUBIC)).astype(np.int64)
    scores = []
    for step in (0, 3, 6):
        pixels = np.clip(enlarged + rng.integers(-1, 2, enlarged.shape), 0, 255)
        pixels[:, 240:] = np.clip(pixels[:, 240:] + step, 0, 255)
        pixels[160:] = np.clip(pixels[160:] - step, 0, 255)
        stream = streamed(pixels.astype(np.uint8), 160)
        scores.append(measure(np.asarray(source), stream, Known((240,), (160,)))[0]["seams"])
    assert 0.8 < scores[0] < 1.2 and scores[1] > 1.5 and scores[2] > 2.5, scores


def test_profiles_orientation_depth_and_background_are_those_of_the_files(make: Make) -> None:
    rng = np.random.default_rng(3)
    plain = photo(rng, 40, 30, "RGBA")
    deep = pyvips.Image.new_from_array(np.asarray(plain).astype(np.uint16) * 257, interpretation="rgb16")
    certificate, _, _ = make(bytes(deep.pngsave_buffer()), format="tiff")
    eight, _, _ = make(file(plain), format="tiff")
    assert certificate.facts["colours"] == "as stored"
    assert certificate.facts["difference"]["mean"] == pytest.approx(eight.facts["difference"]["mean"], abs=0.3)
    dark, source, target = make(file(plain), format="jpeg", quality=100, background=(10, 20, 30))
    assert dark.facts["background"] == "#0a141e"
    white = certify(source.read_bytes(), target.read_bytes(), Known())
    assert white.facts["difference"]["mean"] > dark.facts["difference"]["mean"] + 20
    p3 = pyvips.Image.new_from_array(np.asarray(plain.convert("RGB")))
    data = bytes(p3.icc_export(output_profile="p3").pngsave_buffer())
    kept, _, _ = make(data)
    converted, _, _ = make(data, colour="srgb")
    assert (kept.facts["colours"], converted.facts["colours"]) == ("as stored", "converted to sRGB")
    assert converted.facts["difference"]["mean"] < kept.facts["difference"]["mean"] + 2


def test_of_an_animation_the_first_frame_counts(make: Make) -> None:
    parts = [moving.Part(0, 0, moving.numbers(20, 16, number)) for number in range(3)]
    certificate, source, target = make(moving.gif((20, 16), parts), format="png", animation="keep", scale=4)
    figures, _ = recomputed(source, target, certificate.facts)
    assert certificate.facts["difference"]["mean"] == pytest.approx(figures["difference"]["mean"], abs=0.1)
    assert certificate.facts["result"] == {"width": 80, "height": 64}


def test_a_job_can_be_stopped_while_it_is_measured(make: Make) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise JobCancelled("stopped")

    with pytest.raises(JobCancelled):
        make(file(photo(np.random.default_rng(4), 400, 700, "L")), scale=4, check=check)
    assert calls == 11


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {},
        {"version": 2},
        {"version": 1, "background": "#fff", "tiles": {"columns": [], "rows": []}, "faces": []},
        {"version": 1, "background": "#ffffff", "tiles": {"columns": [float("nan")], "rows": []}, "faces": []},
        {"version": 1, "background": "#ffffff", "tiles": [], "faces": []},
        {"version": 1, "background": 7, "tiles": {"columns": [], "rows": []}, "faces": []},
        {"version": 1, "background": "#ffffff", "tiles": {"columns": [], "rows": []}, "faces": [{"box": [1, 2]}]},
        json.loads(
            '{"version":1,"background":"#ffffff","tiles":{"columns":[],"rows":[]},"faces":[{"box":[0,0,1e999,1]}]}'
        ),
    ],
)
def test_what_is_no_certificate_is_refused(facts: Any) -> None:
    with pytest.raises(InvalidRequest, match="certificate"):
        known_of(facts)


def test_a_sheet_has_no_certificate() -> None:
    with pytest.raises(InvalidField, match="a sheet has no certificate"):
        Params(scale=2, sweep=True, certificate=True)
