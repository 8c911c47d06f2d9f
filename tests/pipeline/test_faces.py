"""Faces through the whole pipeline, from file to file, in every kind of picture."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image

from server.config import Config
from server.engine.engine import Engine
from server.errors import InvalidField, ModelNotFound
from server.faces import FaceRestorer
from server.faces import load as load_faces
from server.job.job import Faces, Params
from server.job.mask import Mask
from server.models import Model
from server.pipeline import Context, run
from server.pipeline.mask.shares import EDGE
from server.weights.catalog import Catalog, Weights
from server.weights.faces import FaceWeights
from server.worker.upscaler import Upscaler
from tests import networks as upscalers
from tests.faces import networks

TINT = (0.06, -0.04, 0.02)
"""What the network adds to a face, so that it shows."""

ALL = Faces(strength=1)

Process = Callable[..., Context]


@pytest.fixture(scope="module")
def restore(tmp_path_factory: pytest.TempPathFactory) -> FaceRestorer:
    """From files, as `weights pull` would leave them."""
    restorer = tmp_path_factory.mktemp("weights") / "restorer.pth"
    torch.save({"params_ema": networks.copying(TINT).state_dict()}, restorer)

    def weights(path: Path) -> Weights:
        return Weights(path.stem, path, ((path, None),), "", "")

    found = FaceWeights(weights(restorer), weights(networks.detector_path()), None)
    return load_faces(found, networks.CPU, torch.float16)  # fp16 is for CUDA: here it must not be used


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return upscalers.load(upscalers.save(upscalers.nearest(), tmp_path_factory.mktemp("net") / "nearest.pth"))


@pytest.fixture
def process(model: Model, restore: FaceRestorer, tmp_path: Path) -> Process:
    def made(data: bytes, faces: Faces | None = ALL, scale: float = 2, **params: Any) -> Context:
        ctx = Context(
            params=Params(scale=scale, faces=faces, **params),
            data=data,
            target=tmp_path / "result",
            engine=Engine(networks.CPU),
            load=upscalers.loader(model),
            load_faces=lambda: restore,
            max_source_pixels=10**8,
            max_result_pixels=10**8,
        )
        run(ctx)
        return ctx

    return made


def portrait() -> Image.Image:
    return Image.fromarray(networks.picture("astronaut_collins.png")).crop((100, 0, 356, 256))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def deep(image: Image.Image) -> bytes:
    samples = np.asarray(image).astype(np.uint16) * 257
    space = "rgb16" if samples.ndim == 3 else "grey16"
    return bytes(pyvips.Image.new_from_array(samples, interpretation=space).pngsave_buffer())


def face_colour(ctx: Context, scale: float = 2) -> Any:
    """Mean colour in the middle of the face, red, green and blue of 1."""
    assert ctx.faces is not None and len(ctx.faces) == 1 and ctx.faces[0].restored is not None, ctx.faces
    image = pyvips.Image.new_from_file(str(ctx.target))
    top = 65535 if image.format == "ushort" else 255
    samples = image.numpy().reshape(image.height, image.width, -1)
    x, y = ctx.faces[0].face.landmarks.mean(0) * scale
    half = ctx.faces[0].face.eye_distance * scale * 0.4
    part = samples[int(y - half) : int(y + half), int(x - half) : int(x + half)]
    planes = part[..., :3] if part.shape[2] >= 3 else np.repeat(part[..., :1], 3, 2)
    return planes.mean((0, 1)) / top


def difference(one: Any, other: Any) -> float:
    """ΔE of CIEDE2000."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    return float(deltaE_ciede2000(rgb2lab(one[None, None]), rgb2lab(other[None, None]))[0, 0])


def test_a_face_is_restored_and_the_rest_is_the_upscaler_s(process: Process) -> None:
    data = encoded(portrait())
    plain = np.asarray(Image.open(process(data, faces=None).target)).astype(int)
    ctx = process(data)
    result = np.asarray(Image.open(ctx.target)).astype(int)
    np.testing.assert_allclose(face_colour(ctx), face_colour_of(plain, ctx) + TINT, atol=0.006)
    changed = np.abs(result - plain).max(2) > 0
    assert 0.02 < changed.mean() < 0.6 and not changed[-40:].any()
    assert list(ctx.seconds).index("faces") == list(ctx.seconds).index("upscale") + 1


def test_where_sides_fit_together_faces_are_restored_in_the_same_place(process: Process) -> None:
    plain, wrapped = process(encoded(portrait())), process(encoded(portrait()), wrap="xy", scale=2.5)
    assert plain.faces is not None and wrapped.faces is not None and len(wrapped.faces) == 1
    np.testing.assert_allclose(wrapped.faces[0].face.landmarks, plain.faces[0].face.landmarks)
    assert difference(face_colour(wrapped, 2.5), face_colour(plain)) < 2


def face_colour_of(samples: Any, ctx: Context) -> Any:
    assert ctx.faces is not None
    x, y = ctx.faces[0].face.landmarks.mean(0) * 2
    half = ctx.faces[0].face.eye_distance * 2 * 0.4
    return samples[int(y - half) : int(y + half), int(x - half) : int(x + half)].mean((0, 1)) / 255


@pytest.mark.parametrize("kind", ["16 bits", "alpha", "16 bits into jpeg"])
def test_other_kinds_of_colour_picture_are_like_8_bits(process: Process, kind: str) -> None:
    wanted = face_colour(process(encoded(portrait())))
    data = deep(portrait()) if "16" in kind else encoded(with_alpha(portrait()))
    ctx = process(data, format="jpeg" if "jpeg" in kind else "png")
    assert difference(face_colour(ctx), wanted) < 2
    image = pyvips.Image.new_from_file(str(ctx.target))
    assert image.format == ("ushort" if kind == "16 bits" else "uchar")
    if kind == "alpha":
        alpha = np.asarray(Image.open(ctx.target))[..., 3]
        assert alpha[0, 0] == 255 and alpha[-1, -1] == 0


def with_alpha(image: Image.Image) -> Image.Image:
    """Transparent in the lower right."""
    image = image.convert("RGBA")
    image.paste((0, 0, 0, 0), (180, 200, 256, 256))
    return image


@pytest.mark.parametrize("kind", ["grey", "16-bit grey", "grey and alpha"])
def test_grey_pictures_are_like_colourless_ones(process: Process, kind: str) -> None:
    grey = portrait().convert("L")
    wanted = face_colour(process(encoded(grey.convert("RGB"))))
    wanted = np.full(3, wanted @ (0.299, 0.587, 0.114))  # the network's tint has no colour there
    data = {"grey": encoded(grey), "16-bit grey": deep(grey), "grey and alpha": encoded(grey.convert("LA"))}[kind]
    ctx = process(data)
    assert difference(face_colour(ctx), wanted) < 2
    assert pyvips.Image.new_from_file(str(ctx.target)).bands == (2 if "alpha" in kind else 1)


def test_cmyk_pictures_are_like_what_they_look_like(process: Process) -> None:
    data = encoded(portrait().convert("CMYK"), "TIFF")
    looks = process(data, faces=None, scale=1)
    wanted = face_colour(process(looks.target.read_bytes()))
    assert difference(face_colour(process(data)), wanted) < 2


def test_reducing_needs_no_upscaler_and_restores_all_the_same(process: Process) -> None:
    plain = np.asarray(Image.open(process(encoded(portrait()), faces=None, scale=0.75).target))
    ctx = process(encoded(portrait()), scale=0.75)
    assert ctx.loaded is None
    x, y = np.rint(ctx.faces[0].face.landmarks[2] * 0.75).astype(int)  # type: ignore[index]
    added = np.asarray(Image.open(ctx.target))[y - 3 : y + 4, x - 3 : x + 4].mean((0, 1)) - plain[
        y - 3 : y + 4, x - 3 : x + 4
    ].mean((0, 1))
    np.testing.assert_allclose(added / 255, TINT, atol=0.015)


def test_a_picture_without_faces_succeeds_and_says_so(process: Process) -> None:
    ctx = process(encoded(Image.linear_gradient("L").resize((64, 64))))
    assert ctx.faces == []
    assert process(encoded(Image.linear_gradient("L")), faces=None).faces is None


def test_a_number_that_is_not_there_fails_the_job(process: Process) -> None:
    with pytest.raises(InvalidField, match="there is no face 3"):
        process(encoded(portrait()), faces=Faces(only=(3,)))


def test_the_same_bytes_twice(process: Process) -> None:
    first = process(encoded(portrait())).target.read_bytes()
    assert process(encoded(portrait())).target.read_bytes() == first


def test_without_weights_it_is_an_error_that_says_what_installs_them(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, device="cpu")
    upscaler = Upscaler(config, Catalog.of(config))
    ctx = upscaler.prepare(Params(scale=1, faces=Faces()), encoded(Image.new("L", (8, 8))), tmp_path / "result")
    with pytest.raises(ModelNotFound, match="weights pull gfpgan"):
        upscaler.run(ctx)


def test_faces_in_a_kept_part_stay_as_they_were(process: Process) -> None:
    data = encoded(portrait())
    plain = np.asarray(Image.open(process(data, faces=None, creativity=-2.0).target)).astype(int)
    restored = np.asarray(Image.open(process(data).target)).astype(int)
    ctx = process(data, mask=Mask(boxes=((0, 0, 128, 256),)))
    result = np.asarray(Image.open(ctx.target)).astype(int)
    left, right = slice(0, 2 * 128), slice(2 * (128 + EDGE + 1), None)
    assert (result[:, left] == plain[:, left]).all() and (result[:, right] == restored[:, right]).all()
    assert (restored[:, left] != plain[:, left]).any() and (restored[:, right] != plain[:, right]).any()
    assert ctx.faces is not None and ctx.faces[0].restored is not None
    whole = process(data, mask=Mask(boxes=((0, 0, 256, 256),)))
    assert (np.asarray(Image.open(whole.target)) == plain).all() and whole.faces is None
