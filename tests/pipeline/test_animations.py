"""Animations from file to file: every frame goes through the network, and times, loops and alpha stay."""

import io
import resource
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from server.engine.engine import Engine
from server.errors import JobCancelled, ResultImpossible, SourceTooLarge, SourceUnreadable
from server.job.job import Params
from server.models import Model
from server.pipeline import Context, run
from tests import moving, networks
from tests.conftest import Live, draw
from tests.moving import Part, numbers, shown

PARTS = [
    Part(0, 0, numbers(20, 16, 0), hundredths=0),
    Part(3, 2, numbers(9, 8, 1, holes=True), transparent=True, hundredths=1),
    Part(3, 2, np.full((2, 2), moving.CLEAR_COLOUR, np.uint8), transparent=True),  # which changes nothing
    Part(6, 5, numbers(8, 8, 2), "restore", hundredths=300),
    Part(1, 1, numbers(4, 4, 3), hundredths=2),
]
GIF = moving.gif((20, 16), PARTS, repeats=2)
TIMES = [0, 10, 70, 3000, 20]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """It repeats every pixel four times each way."""
    return networks.load(networks.save(networks.nearest(), tmp_path_factory.mktemp("net") / "nearest.pth"))


def context(model: Model, data: bytes, target: Path, **settings: Any) -> Context:
    params = Params(**{"scale": 4.0, "animation": "keep", **settings.pop("params", {})})
    limits = {"max_source_pixels": 10**8, "max_result_pixels": 10**8} | settings
    return Context(
        params=params, data=data, target=target, engine=Engine(networks.CPU), load=networks.loader(model), **limits
    )


def process(model: Model, data: bytes, **settings: Any) -> tuple[Context, bytes]:
    with TemporaryDirectory() as folder:
        ctx = context(model, data, Path(folder) / "result", **settings)
        run(ctx)
        return ctx, ctx.target.read_bytes()


def frames(data: bytes) -> tuple[list[NDArray[np.uint8]], list[float]]:
    found, times = [], []
    with Image.open(io.BytesIO(data)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(np.asarray(image.convert("RGBA")).copy())
            times.append(image.info.get("duration", 0))
    return found, times


def enlarged(samples: NDArray[Any]) -> NDArray[Any]:
    return samples.repeat(4, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize("format_", ["gif", "png", "webp"])
def test_every_frame_is_enlarged_and_keeps_its_time(model: Model, format_: str) -> None:
    ctx, result = process(model, GIF, params={"format": format_, "lossless": format_ == "webp"})
    found, times = frames(result)
    assert times == TIMES and ctx.plan is not None and ctx.plan.frames == 5
    for ours, theirs in zip(found, shown((20, 16), PARTS), strict=True):
        assert np.array_equal(ours, enlarged(theirs))
    with Image.open(io.BytesIO(result)) as image:
        assert image.info["loop"] == (2 if format_ == "gif" else 3)
    assert ctx.animation is not None and ctx.animation.timing.duration_s == sum(TIMES) / 1000


@pytest.mark.parametrize("scale", [0.5, 1.7, 7])
def test_frames_do_not_bleed_into_each_other_at_any_scale(model: Model, scale: float) -> None:
    parts = [Part(0, 0, np.full((16, 20), number, np.uint8)) for number in (3, 9, 27)]
    found, _ = frames(process(model, moving.gif((20, 16), parts), params={"scale": scale})[1])
    for picture, part in zip(found, parts, strict=True):
        assert picture.shape == (round(16 * scale), round(20 * scale), 4)
        assert np.abs(picture[..., :3].astype(int) - moving.PALETTE[part.pixels[0, 0]]).max() <= 1


def test_alpha_changes_from_frame_to_frame(model: Model) -> None:
    pictures = [Part(0, 0, np.dstack((draw_noise(step), mask(step))), over=False) for step in range(4)]
    found, _ = frames(process(model, moving.apng((24, 16), pictures))[1])
    for ours, part in zip(found, pictures, strict=True):
        assert np.array_equal(ours[..., 3], enlarged(part.pixels)[..., 3])
        assert not ((ours != enlarged(part.pixels)) * (ours[..., 3:] > 0)).any()


def draw_noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), np.uint8)


def mask(step: int) -> NDArray[np.uint8]:
    result = np.full((16, 24), 255, np.uint8)
    result[2:10, 5 * step : 5 * step + 8] = 0 if step != 2 else 255  # one frame is wholly opaque
    return result


def test_16_bits_and_orientation_are_those_of_a_still(model: Model) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 65536, (16, 20, 4)).astype(np.uint16) for seed in (0, 1)]
    for picture in pictures:
        picture[..., 3] = 65535
    data = moving.apng((20, 16), [Part(0, 0, each, over=False) for each in pictures])
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = data[:33] + moving.chunk(b"eXIf", tags.tobytes().removeprefix(b"Exif\0\0")) + data[33:]
    result = process(model, turned)[1]
    assert result[24] == 16
    found, _ = frames(result)
    for ours, source in zip(found, pictures, strict=True):
        expected = enlarged(np.rot90(source, -1))
        assert np.abs(ours.astype(int) - expected // 256).max() <= 1


def test_a_frame_that_is_the_same_is_not_computed_again(model: Model) -> None:
    tiles: list[float] = []
    with TemporaryDirectory() as folder:
        ctx = context(model, GIF, Path(folder) / "result")
        ctx.check = lambda: tiles.append(ctx.progress)
        run(ctx)
    assert (ctx.frames_made, ctx.progress) == (4, 1) and ctx.plan is not None
    assert ctx.network_pixels == 4 * 320 and ctx.plan.network_pixels == 5 * 320
    assert tiles == sorted(tiles) and {0.2, 0.4, 0.6, 0.8} <= {round(each, 3) for each in tiles}


def test_it_can_be_stopped_between_frames(model: Model) -> None:
    with TemporaryDirectory() as folder:
        ctx = context(model, GIF, Path(folder) / "result")

        def check() -> None:
            if ctx.progress > 0.5:
                raise JobCancelled("enough")

        ctx.check = check
        with pytest.raises(JobCancelled):
            run(ctx)
        assert ctx.frame < 5


def test_the_first_alone_is_a_still_on_request(model: Model) -> None:
    for format_ in ("gif", "png", "webp", "jpeg"):
        ctx, result = process(model, GIF, params={"format": format_, "animation": "first"})
        assert len(frames(result)[0]) == 1 and ctx.animation is None


def test_an_animation_of_one_frame_is_a_still(model: Model) -> None:
    result = process(model, moving.gif((20, 16), PARTS[:1]))[1]
    assert b"acTL" not in result and np.array_equal(frames(result)[0][0], enlarged(PARTS[0].rgba()))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"params": {"format": "jpeg"}},
            ResultImpossible,
            "jpeg can't hold .* 5 frames; use png, webp or gif; .*first",
        ),
        (
            {"max_source_pixels": 1599},
            SourceTooLarge,
            "5 frames of 20×16 pixels: this server takes at most 1599 in all",
        ),
        ({"max_result_pixels": 25_599}, ResultImpossible, "5 frames of 80×64 pixels: .* at most 25599 here in all"),
    ],
)
def test_what_is_too_much_is_refused_in_words(
    model: Model, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        process(model, GIF, **settings)


def test_a_damaged_frame_is_no_result(model: Model) -> None:
    with pytest.raises(SourceUnreadable):
        process(model, GIF[: GIF.rindex(b"\x21\xf9") + 30])


def test_memory_does_not_grow_with_frames(model: Model, tmp_path: Path) -> None:
    side, count = 200, 100  # together 12 MB
    parts = [Part(0, 0, numbers(side, side, seed)) for seed in range(count)]
    ctx = context(model, moving.gif((side, side), parts), tmp_path / "result", params={"format": "webp", "scale": 1})
    kilobytes: dict[int, int] = {}

    def check() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        kilobytes.setdefault(ctx.frame, pages * resource.getpagesize() // 1024)

    ctx.check = check
    run(ctx)
    assert kilobytes[count - 1] - kilobytes[20] < 5 * 1024


def test_colours_are_converted_before_they_are_rounded(model: Model) -> None:
    """A ramp of 256 levels, enlarged smoothly and converted from a profile, has no steps that it need not have."""
    from server.images.metadata.icc import DISPLAY_P3, rgb_profile

    ramp = np.repeat(np.linspace(40, 90, 64).astype(np.uint8)[None, :, None], 3, axis=2).repeat(8, axis=0)
    ramp[..., 2] = 20
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG", icc_profile=rgb_profile(DISPLAY_P3))
    _, converted = process(model, buffer.getvalue(), params={"scale": 8, "colour": "srgb"})
    _, deep = process(model, buffer.getvalue(), params={"scale": 8, "colour": "srgb", "depth": 16})
    eight = np.asarray(Image.open(io.BytesIO(converted))).astype(int)
    import pyvips

    sixteen = pyvips.Image.new_from_buffer(deep, "").numpy()
    assert converted[24] == 8 and np.abs(eight - np.rint(sixteen / 257)).max() == 0


# --- through the doors ----------------------------------------------------------------------------------------------


def test_our_own_api_plans_and_takes_them_whole_and_says_so(live: Live) -> None:
    files = {"file": ("a.gif", GIF)}
    plan = live.client.post("/plan", files=files).json()
    assert (plan["frames"], plan["tiles"]) == (5, 5 * plan["passes"][0]["tiles"])
    assert live.client.post("/plan", files=files, data={"animation": "first"}).json()["frames"] == 1
    refused = live.client.post("/jobs", files=files, data={"format": "jpeg"})
    assert refused.status_code == 400 and "can't hold an animation" in refused.json()["error"]["message"]
    job = live.client.post("/jobs", files=files, data={"format": "gif"}).json()
    assert job["params"]["animation"] == "keep"
    wrong = live.client.post("/jobs", files=files, data={"animation": "last"})
    assert wrong.status_code == 400 and wrong.json()["error"]["field"] == "animation"


def test_the_vendors_apis_take_the_first(live: Live) -> None:
    import base64

    body = {"image": base64.b64encode(GIF).decode(), "output_format": "jpeg"}
    answer = live.client.post("/api/v3/wavespeed-ai/image-upscaler", json=body)
    assert answer.status_code == 200
    assert live.worker.claim().params.animation == "first"


def test_draw_is_a_still(model: Model) -> None:
    assert process(model, draw(8, 8))[0].animation is None
