"""HDR goes in and comes out: none is lost, and where it can't be kept, the caller is told."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image

from server.cli.provenance import signing_chain
from server.engine.engine import Engine
from server.errors import ResultImpossible
from server.images.metadata.cicp import CodePoints, code_points
from server.images.metadata.provenance import Origin
from server.images.read import gain_map, jpeg
from server.images.read.open import open_picture, read_header
from server.images.tone_map import WHITE_NITS
from server.images.write.sign import Signer, manifest_of
from server.job.job import Params
from server.models import Model
from server.pipeline import Context, preview, run
from server.refiners import load as load_refiner
from server.weights.catalog import Catalog
from server.weights.refiner import refiner_weights
from tests import hdr, networks
from tests.conftest import Live, Picture
from tests.pictures import FILES, encoded

SIZE = 32, 48
"""Rows and columns."""
LARGER = 72, 96
BY_LIBULTRAHDR = [(hdr.by_libultrahdr, {"reduced": each}) for each in (1, 2, 4)]
BY_HAND: list[tuple[Callable[..., bytes], dict[str, Any]]] = [
    (hdr.by_hand, {}),
    (hdr.by_hand, {"coloured": True}),
]
GAIN_MAPS = {
    f"{make.__name__} {made} {seed}": (make, seed, made)
    for seed in range(4)
    for make, made in [*BY_LIBULTRAHDR, *BY_HAND]
}
"""Twenty: three by libultrahdr (ISO 21496-1) and two with XMP alone, of four pictures."""
assert len(GAIN_MAPS) == 20


@pytest.fixture(scope="module")
def model() -> Model:
    return networks.load(networks.BUNDLED)


@pytest.fixture(scope="module")
def process(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Context, bytes]]:
    cache = tmp_path_factory.mktemp("cache")
    refiner = load_refiner(refiner_weights(Catalog(cache), "bundled", "cpu"), networks.CPU, torch.float32, cache)
    target, engine = tmp_path_factory.mktemp("hdr") / "result", Engine(networks.CPU)

    def done(data: bytes, way: Callable[[Context], None] = run, **params: Any) -> tuple[Context, bytes]:
        ctx = Context(
            params=Params(**{"scale": 4, "hdr": "keep", **params}), data=data, target=target, engine=engine,
            load=networks.loader(model), load_refiner=lambda: refiner, max_source_pixels=10**7,
            max_result_pixels=10**7,
        )  # fmt: skip
        way(ctx)
        return ctx, target.read_bytes()

    return done


Process = Callable[..., tuple[Context, bytes]]


@pytest.mark.parametrize("name", GAIN_MAPS)
def test_an_ultra_hdr_jpeg_stays_one_and_its_light_stays(process: Process, name: str) -> None:
    make, seed, made = GAIN_MAPS[name]
    data = make(hdr.light(seed, *LARGER), **made)
    ctx, result = process(data, format="jpeg")
    source, light = hdr.light_of_jpeg(data), hdr.light_of_jpeg(result)
    assert ctx.notes == [] and light.max() > 2 * WHITE_NITS
    assert hdr.far(hdr.reduced(light, 4), source).mean() < 3


@pytest.mark.parametrize("form", ["HEIC", "AVIF", "HEIC of Apple"])
def test_a_gain_map_of_heic_or_avif_becomes_that_of_an_ultra_hdr_jpeg(process: Process, form: str) -> None:
    base, small, low, high = hdr.split(hdr.light(1, 48, 64), 1)
    files = [(FILES / f"hdr_{name}.heic").read_bytes() for name in ("base", "gain")]
    if form == "AVIF":
        files = [encoded(np.atleast_3d(np.asarray(each)), "AVIF", quality=95) for each in (base, small)]
    data = hdr.in_heic_of_apple(*files, stated=8.0) if "Apple" in form else hdr.in_heif(*files, low, high)
    ctx, result = process(data, format="jpeg")
    assert ctx.notes == [] and read_header(result, 10**7).hdr == "gain map"
    shown, gain = (open_picture(each, 10**7) for each in files)
    codes = gain.numpy().reshape(48, 64, -1)[..., :1] / 255
    linear = shown.colourspace("scrgb").numpy().astype(float)
    if "Apple" in form:
        light = linear * (1 + 7 * np.where(codes < 0.081, codes / 4.5, ((codes + 0.099) / 1.099) ** (1 / 0.45)))
    else:
        light = (linear + 1 / 64) * 2 ** (low + (high - low) * codes) - 1 / 64
    assert hdr.far(hdr.reduced(hdr.light_of_jpeg(result), 4), light * WHITE_NITS).mean() < 3
    with pytest.raises(ResultImpossible, match="use jpeg"):
        process(data, format="avif")
    ctx, _ = process(data, format="avif", hdr="tone-map")
    assert ctx.notes == ["the source's gain map (HDR) is not in the result"]


PQ_AND_HLG = {
    "AVIF PQ": lambda light: (hdr.avif(light, hdr.PQ), hdr.PQ),
    "AVIF HLG": lambda light: (hdr.avif(light, hdr.HLG), hdr.HLG),
    "AVIF PQ in P3": lambda light: (hdr.avif(light, CodePoints(12, 16)), CodePoints(12, 16)),
    "lossless AVIF PQ": lambda light: (hdr.avif(light, hdr.PQ, lossless=True, quality=None), hdr.PQ),
    "PNG PQ": lambda light: (hdr.png(light, hdr.PQ), hdr.PQ),
    "PNG HLG": lambda light: (hdr.png(light, hdr.HLG), hdr.HLG),
}


@pytest.mark.parametrize("form", ["avif", "png"])
@pytest.mark.parametrize("name", PQ_AND_HLG)
def test_pq_and_hlg_keep_their_code_points_and_their_light(process: Process, name: str, form: str) -> None:
    data, codes = PQ_AND_HLG[name](hdr.light(5, *SIZE))
    ctx, result = process(data, format=form, **({"quality": 95} if form == "avif" else {}))
    assert ctx.notes == [] and code_points(result, f"image/{form}") == codes
    opened = open_picture(result, 10**7)
    assert opened.get("bits-per-sample") == (10 if form == "avif" else 16)
    light = hdr.light_of_signal(opened.numpy(), codes)
    source = hdr.light_of_signal(open_picture(data, 10**7).numpy(), codes)
    assert light.max() > 2 * WHITE_NITS and hdr.far(hdr.reduced(light, 4), source, wide=True).mean() < 3


def test_heic_of_pq_becomes_avif_of_pq(process: Process) -> None:
    """A file of 10 bits whose transfer is changed to PQ."""
    data = (FILES / "deep.heic").read_bytes()
    place = data.index(b"colrnclx") + 8
    data = data[:place] + bytes([0, 9, 0, 16]) + data[place + 4 :]
    assert read_header(data, 10**7).hdr == "PQ"
    _, result = process(data, format="avif", scale=2)
    assert code_points(result, "image/avif") == CodePoints(9, 16) and read_header(result, 10**7).size == (128, 96)


@pytest.mark.parametrize("creativity", [-2.0, 0.0, 1.0])
def test_nothing_in_a_result_of_pq_is_brighter_than_its_source(process: Process, creativity: float) -> None:
    """So that edges of lamps get no sparks, and MaxCLL stays true. Lamps of one pixel, which networks sharpen most."""
    light = np.full((32, 48, 3), 5.0)
    light[::5, ::7] = 900.0
    data = hdr.png(light, hdr.PQ)
    _, result = process(data, format="png", creativity=creativity, seed=1)
    source, found = (open_picture(each, 10**7).numpy().astype(int) for each in (data, result))
    assert found.max() <= source.max() + 1 and found.max() > 0.8 * source.max()


@pytest.mark.parametrize("kind", ["gain map", "PQ"])
def test_hdr_stays_where_detail_is_added(process: Process, kind: str) -> None:
    """The diffusion pass sees the same signal as the networks."""
    light = hdr.light(3, *SIZE)
    data = hdr.by_libultrahdr(light, 2) if kind == "gain map" else hdr.avif(light, hdr.PQ)
    ctx, result = process(data, format="jpeg" if kind == "gain map" else "avif", scale=2, creativity=1.0, seed=1)
    assert ctx.refinement is not None and ctx.notes == [] and read_header(result, 10**7).hdr == kind
    if kind == "gain map":
        difference = hdr.far(hdr.reduced(hdr.light_of_jpeg(result), 2), hdr.light_of_jpeg(data))
    else:
        found, source = (hdr.light_of_signal(open_picture(each, 10**7).numpy(), hdr.PQ) for each in (result, data))
        difference = hdr.far(hdr.reduced(found, 2), source, wide=True)
    assert difference.mean() < 6


def test_the_gain_map_of_a_picture_that_repeats_repeats_too(process: Process) -> None:
    """Moved around its edge, the source gives a gain map that is moved likewise."""
    maps = []
    for moved in (0, 24):
        data = hdr.by_libultrahdr(np.roll(hdr.light(3, *SIZE), moved, axis=1), 1)
        _, result = process(data, format="jpeg", scale=2, wrap="x")
        beside = gain_map.find(result, jpeg.look(result), (1000, 1000))
        assert beside is not None
        maps.append(np.roll(beside.open().numpy().astype(int), -2 * moved, axis=1))
    assert maps[0].std() > 20 and abs(maps[0] - maps[1]).mean() < 2 and abs(maps[0] - maps[1])[4:-4].max() < 30


def test_a_turned_picture_and_its_gain_map_turn_together(process: Process) -> None:
    picture = hdr.light(3, *SIZE)
    (_, plain), (_, turned) = (
        process(hdr.by_hand(picture, orientation=each), format="jpeg", scale=2) for each in (1, 6)
    )
    difference = hdr.far(hdr.light_of_jpeg(turned), np.rot90(hdr.light_of_jpeg(plain), -1))
    assert difference.mean() < 2.5


def test_what_the_gain_map_says_is_kept_byte_for_byte(process: Process) -> None:
    for data in (
        hdr.by_libultrahdr(hdr.light(1, *SIZE)),
        *(hdr.by_hand(hdr.light(1, *SIZE), apple=a) for a in (False, True)),
    ):
        _, result = process(data, format="jpeg", scale=2, metadata="strip")
        before, after = (gain_map.find(each, jpeg.look(each), (1000, 1000)) for each in (data, result))
        assert before is not None and after is not None and after.metadata == before.metadata
        assert (after.announced, after.in_xmp, after.stops) == (before.announced, before.in_xmp, before.stops)
        sizes = [each.open() for each in (before, after)]
        assert (sizes[1].width, sizes[1].height) == (2 * sizes[0].width, 2 * sizes[0].height)


def test_the_table_of_pictures_is_that_of_another_reader(process: Process) -> None:
    """Pillow reads the table of CIPA DC-007."""
    _, result = process(hdr.by_libultrahdr(hdr.light(1, *SIZE), 1), format="jpeg", scale=2, progressive=True)
    with Image.open(io.BytesIO(result)) as opened:
        assert opened.format == "MPO" and opened.n_frames == 2  # type: ignore[attr-defined]
        opened.seek(1)
        assert opened.convert("L").size == (96, 64)


def test_a_signed_result_is_still_hdr(process: Process, tmp_path: Path) -> None:
    data = hdr.by_libultrahdr(hdr.light(1, *SIZE))
    path = tmp_path / "signed.jpg"
    path.write_bytes(process(data, format="jpeg", scale=2)[1])
    signing_chain(tmp_path)
    signer = Signer(tmp_path / "certificate.pem", tmp_path / "key.pem")
    before = hdr.light_of_jpeg(path.read_bytes())
    signer.sign(path, "image/jpeg", data, Origin("upscale-server 1", generated=False))
    found = manifest_of(path.read_bytes(), "image/jpeg")
    assert found is not None and found[1] == "Valid"
    assert (hdr.light_of_jpeg(path.read_bytes()) == before).all()


def test_tone_mapping_is_noted_and_gives_the_standard_range(process: Process) -> None:
    light = hdr.light(5, *SIZE)
    for data in (hdr.avif(light, hdr.PQ), hdr.png(light, hdr.HLG)):
        ctx, result = process(data, format="jpeg", hdr="tone-map")
        assert len(ctx.notes) == 1 and "was tone-mapped to sRGB" in ctx.notes[0]
        shown = np.asarray(Image.open(io.BytesIO(result)))
        assert read_header(result, 10**7).hdr is None and shown.mean() > 60 and shown.max() > 240
    ctx, result = process(hdr.by_libultrahdr(light), format="webp", hdr="tone-map")
    assert ctx.notes == ["the source's gain map (HDR) is not in the result"]


@pytest.mark.parametrize(
    ("kind", "params", "field", "advice"),
    [
        ("gain map", {"format": "png"}, "format", "use jpeg"),
        ("gain map", {"format": "jpeg", "colour": "srgb"}, "colour", "tone-map"),
        ("PQ", {"format": "jpeg"}, "format", "use png or avif"),
        ("PQ", {"format": "gif"}, "format", "use png or avif"),
        ("PQ", {"format": "avif", "depth": 8}, "depth", "tone-map"),
        ("PQ", {"format": "avif", "colour": "srgb"}, "colour", "tone-map"),
    ],
)
def test_what_can_not_hold_hdr_is_refused(
    process: Process, kind: str, params: dict[str, Any], field: str, advice: str
) -> None:
    light = hdr.light(5, *SIZE)
    data = hdr.by_libultrahdr(light) if kind == "gain map" else hdr.avif(light, hdr.PQ)
    with pytest.raises(ResultImpossible, match=advice) as refused:
        process(data, **params)
    assert refused.value.field == field and kind in refused.value.message


@pytest.mark.parametrize("damage", ["missing", "pixels"])
def test_a_damaged_gain_map_leaves_a_plain_jpeg_and_a_note(process: Process, damage: str) -> None:
    data = hdr.by_libultrahdr(hdr.light(1, *SIZE))
    end = jpeg.look(data).end
    # In the middle of its pixels a marker that no decoder expects.
    data = data[:end] if damage == "missing" else data[:-60] + b"\xff\xd8" + data[-58:]
    ctx, result = process(data, format="png", scale=2)
    assert ctx.notes == ["the source's gain map (HDR) is missing or damaged: it was read as a plain JPEG"]
    assert read_header(result, 10**7).hdr is None


def test_a_sheet_of_previews_is_in_the_standard_range(process: Process) -> None:
    ctx, result = process(hdr.avif(hdr.light(5, *SIZE), hdr.PQ), preview.run, format="png", sweep=True, scale=2)
    assert read_header(result, 10**7).hdr is None and "tone-mapped" in ctx.notes[0]


def test_an_animation_of_pq_keeps_it_or_is_tone_mapped(process: Process) -> None:
    frames = [hdr.coded(hdr.light(seed, 16, 24), hdr.PQ) // 257 for seed in range(3)]
    first, *rest = (Image.fromarray(each.astype(np.uint8)) for each in frames)
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=True, append_images=rest, duration=100)
    chunk = hdr.png(hdr.light(1, 8, 8), CodePoints(9, 16))[33:49]
    data = buffer.getvalue()[:33] + chunk + buffer.getvalue()[33:]
    ctx, kept = process(data, format="png", animation="keep", scale=2)
    assert ctx.animation is not None and code_points(kept, "image/png") == CodePoints(9, 16)
    _, mapped = process(data, format="png", animation="keep", scale=2, hdr="tone-map")
    brighter = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")).mean() for each in (kept, mapped)]
    assert code_points(mapped, "image/png") is None and brighter[1] > brighter[0] + 10


# --- through the doors ----------------------------------------------------------------------------------------------


def test_our_own_api_says_that_a_source_is_hdr_and_refuses_early(live: Live, picture: Picture) -> None:
    files = {"file": ("a.jpg", hdr.by_libultrahdr(hdr.light(1, *SIZE)))}
    plan = live.client.post("/plan", files=files, data={"format": "jpeg"})
    assert plan.json()["hdr"] == "gain map"
    assert live.client.post("/plan", files={"file": ("a.png", picture())}).json()["hdr"] is None
    for path in ("/plan", "/jobs"):
        refused = live.client.post(path, files=files)
        assert refused.status_code == 400 and refused.json()["error"]["field"] == "format"
    assert live.client.post("/jobs", files=files, data={"hdr": "tone-map"}).status_code == 202
    wrong = live.client.post("/jobs", files=files, data={"hdr": "lose"})
    assert wrong.status_code == 400 and wrong.json()["error"]["field"] == "hdr"


def test_the_vendors_apis_tone_map(live: Live) -> None:
    import base64

    body = {"image": base64.b64encode(hdr.by_libultrahdr(hdr.light(1, *SIZE))).decode(), "output_format": "png"}
    assert live.client.post("/api/v3/wavespeed-ai/image-upscaler", json=body).status_code == 200
    assert live.worker.claim().params.hdr == "tone-map"


def test_the_preview_of_hdr_is_in_the_standard_range() -> None:
    from server.images.preview import preview as small

    shown = pyvips.Image.new_from_buffer(small(hdr.avif(hdr.light(5, *SIZE), hdr.PQ), 64, 10**7), "")
    assert shown.format == "uchar" and shown.avg() > 60
