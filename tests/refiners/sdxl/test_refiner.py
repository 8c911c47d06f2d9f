"""SDXL with a tile ControlNet, on a small one with seeded weights. The real one was never here."""

import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from server.errors import ModelNotFound, Unavailable
from server.pipeline.refine.sampler import noise_at, sample
from server.refiners import Grid
from server.refiners import load as load_refiner
from server.refiners.sdxl import prompt
from server.refiners.sdxl.refiner import SdxlRefiner, load
from server.refiners.sdxl.settings import Settings, settings
from server.weights.catalog import Catalog
from server.weights.manifest import read_manifest
from server.weights.refiner import SDXL, SDXL_CONTROL, RefinerWeights
from tests.refiners.networks import CPU, Sdxl, sdxl, unet

# diffusers' schedulers, on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CREATIVE = settings(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Sdxl:
    return sdxl(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def refiner(weights: Sdxl) -> SdxlRefiner:
    return loaded(weights)


def loaded(weights: Sdxl, dtype: torch.dtype = torch.float32, cache: Path | None = None) -> SdxlRefiner:
    cache = cache or weights.base.parent / "cache"
    return load(weights.base, weights.control, name="small", sha256=None, device=CPU, dtype=dtype, cache=cache)


@pytest.fixture
def copied(weights: Sdxl, tmp_path: Path) -> Sdxl:
    """One to do damage to."""
    for folder in (weights.base, weights.control):
        shutil.copytree(folder, tmp_path / folder.name)
    return Sdxl(tmp_path / weights.base.name, tmp_path / weights.control.name)


def picture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def noise(height: int = 8, width: int = 12) -> Tensor:
    return noise_at(1, (0, height), (0, width), width, 4)


def changed(**values: float) -> Settings:
    return replace(CREATIVE, **values)


def denoised(refiner: SdxlRefiner, wanted: Settings = CREATIVE, control_picture: Tensor | None = None) -> Tensor:
    shown = picture() if control_picture is None else control_picture
    return refiner.denoise(noise(), shown, torch.tensor(449), wanted)


def test_it_loads_without_any_network(
    copied: Sdxl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("something wants the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    made = loaded(copied, cache=tmp_path / "empty")
    assert (made.channels, made.downscale, made.grid.multiple) == (4, 8, 32)
    assert not capfd.readouterr().err


def test_the_files_it_reads_are_those_of_the_manifest(weights: Sdxl) -> None:
    entries = read_manifest().entries
    listed = {str(file.path) for name in (SDXL, SDXL_CONTROL) for file in entries[name].files}
    folder = weights.base.parent
    files = [path for each in (weights.base, weights.control) for path in each.rglob("*") if path.is_file()]
    assert {str(path.relative_to(folder)) for path in files} == listed


def test_it_is_found_in_the_weights_folder(copied: Sdxl, tmp_path: Path) -> None:
    """Damaged by the manifest's hashes: these are not the real ones, and it says so before it loads anything."""
    catalog = Catalog(copied.base.parent)
    found = RefinerWeights(catalog.find(SDXL), catalog.find(SDXL_CONTROL))
    with pytest.raises(ModelNotFound, match="not the ones of the manifest"):
        load_refiner(found, CPU, torch.float32, tmp_path)


def test_steps_come_as_many_as_wanted_from_the_wanted_strength(refiner: SdxlRefiner) -> None:
    for creativity in (0.05, 0.5, 1.0, 2.0):
        wanted = settings(creativity)
        _, steps = refiner.scheduler(wanted)
        assert len(steps) == wanted.steps
        assert int(steps[0]) == pytest.approx(wanted.strength * 1000, abs=1.5)
        assert bool((steps.diff() < 0).all()) and int(steps[-1]) >= 0


def test_it_denoises_tiles_as_many_as_come(refiner: SdxlRefiner) -> None:
    pictures = torch.cat([picture(), picture(seed=1)])
    both = refiner.denoise(noise().repeat(2, 1, 1, 1), pictures, torch.tensor(449), CREATIVE)
    assert both.shape == (2, 4, 8, 12) and both.dtype is torch.float32
    torch.testing.assert_close(both[:1], denoised(refiner), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(both[1:], denoised(refiner, CREATIVE, picture(seed=1)), atol=1e-4, rtol=1e-3)


def test_the_same_again_is_the_same(refiner: SdxlRefiner) -> None:
    assert torch.equal(denoised(refiner), denoised(refiner))


def test_guidance_leads_away_from_the_negative_text(refiner: SdxlRefiner) -> None:
    plain = denoised(refiner, changed(guidance=1.0))
    three, seven = (denoised(refiner, changed(guidance=guidance)) for guidance in (3.0, 7.0))
    assert (seven - plain).abs().max() > 1e-3
    torch.testing.assert_close(seven - plain, 3 * (three - plain), atol=1e-4, rtol=1e-3)


def test_the_controlnet_acts_as_strongly_as_wanted(refiner: SdxlRefiner) -> None:
    free = changed(control=0.0)
    assert torch.equal(denoised(refiner, free), denoised(refiner, free, picture(seed=1)))
    weak, strong = (
        (denoised(refiner, wanted) - denoised(refiner, wanted, picture(seed=1))).abs().mean()
        for wanted in (changed(control=0.2), changed(control=1.0))
    )
    assert 0 < weak < strong


def test_it_draws_what_the_pipeline_of_diffusers_draws(weights: Sdxl, refiner: SdxlRefiner) -> None:
    """Its image-to-image pipeline with the same texts, sizes, noise and steps."""
    from diffusers import ControlNetModel, StableDiffusionXLControlNetImg2ImgPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    control = ControlNetModel.from_pretrained(weights.control, torch_dtype=torch.float32)
    pipeline = StableDiffusionXLControlNetImg2ImgPipeline(
        **{
            **_parts_of_pipeline(weights),
            "controlnet": control,
            "scheduler": refiner.scheduler(CREATIVE)[0],
        },
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    scheduler = type(refiner.scheduler(CREATIVE)[0]).from_config(refiner.scheduler(CREATIVE)[0].config)
    scheduler.set_timesteps(6)
    steps = scheduler.timesteps[-3:]
    ours = scheduler.add_noise(refiner.encode(picture()), noise(), steps[:1])
    start = ours.clone()
    for step in steps:
        ours = scheduler.step(refiner.denoise(ours, picture(), step, CREATIVE), step, ours, return_dict=False)[0]
    theirs = pipeline(
        prompt=prompt.POSITIVE,
        negative_prompt=prompt.NEGATIVE,
        image=picture(),
        control_image=picture(),
        latents=start,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=CREATIVE.guidance,
        controlnet_conditioning_scale=CREATIVE.control,
        original_size=(1024, 1024),
        target_size=(1024, 1024),
        output_type="latent",
    ).images
    assert (ours - start).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def _parts_of_pipeline(weights: Sdxl) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    def network(kind: Any, name: str, precision: str) -> Any:
        return kind.from_pretrained(weights.base / name, variant="fp16", **{precision: torch.float32})

    return {
        "vae": network(AutoencoderKL, "vae", "torch_dtype"),
        "unet": network(UNet2DConditionModel, "unet", "torch_dtype"),
        "text_encoder": network(CLIPTextModel, "text_encoder", "dtype"),
        "text_encoder_2": network(CLIPTextModelWithProjection, "text_encoder_2", "dtype"),
        "tokenizer": CLIPTokenizer.from_pretrained(weights.base / "tokenizer"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(weights.base / "tokenizer_2"),
    }


@pytest.mark.slow
def test_the_sampler_runs_it_over_tiles(refiner: SdxlRefiner) -> None:
    grid = Grid(tile=160, halo=16, multiple=32)
    large = picture(96, 224)
    wanted = settings(0.5)

    def refined() -> Tensor:
        start = noise(12, 28)
        return sample(refiner, large, start, wanted, lambda function, *tensors: function(*tensors), grid)

    first = refined()
    assert first.shape == large.shape and bool(torch.isfinite(first).all())
    assert torch.equal(first, refined())


def test_a_tile_that_overflows_is_computed_again(weights: Sdxl) -> None:
    half = loaded(weights, torch.float16)
    half._unet.conv_out.weight.mul_(200_000)
    result = denoised(half)
    assert bool(torch.isfinite(result).all()) and result.abs().max() > 65504


def test_the_texts_are_read_once_and_later_starts_need_no_transformers(
    weights: Sdxl, refiner: SdxlRefiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert torch.equal(denoised(loaded(weights)), denoised(refiner))
    with pytest.raises(Unavailable, match="needs the package transformers"):
        loaded(weights, cache=tmp_path)


def test_other_words_and_another_tokenizer_are_read_anew(
    copied: Sdxl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prompt.embedded(copied.base, tmp_path)
    monkeypatch.setattr(prompt, "POSITIVE", "a forest")
    second = prompt.embedded(copied.base, tmp_path)
    assert torch.equal(first.tokens[0], second.tokens[0]) and not torch.equal(first.tokens[1], second.tokens[1])
    (copied.base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    third = prompt.embedded(copied.base, tmp_path)
    assert not torch.equal(second.tokens[1], third.tokens[1])


@pytest.mark.slow
def test_a_damaged_cache_is_made_anew_and_one_that_cannot_be_written_is_done_without(
    weights: Sdxl, tmp_path: Path
) -> None:
    first = prompt.embedded(weights.base, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"not tensors")
    assert torch.equal(prompt.embedded(weights.base, tmp_path / "cache").tokens, first.tokens)
    assert file.stat().st_size > 1000
    (tmp_path / "in the way").write_bytes(b"")
    assert torch.equal(prompt.embedded(weights.base, tmp_path / "in the way").tokens, first.tokens)


@pytest.mark.parametrize(
    "name",
    [
        "sdxl-base/scheduler/scheduler_config.json",
        "sdxl-base/text_encoder_2/model.fp16.safetensors",
        "sdxl-base/tokenizer/vocab.json",
        "sdxl-base/unet/config.json",
        "sdxl-base/unet/diffusion_pytorch_model.fp16.safetensors",
        "sdxl-base/vae/diffusion_pytorch_model.fp16.safetensors",
        "sdxl-controlnet-tile/diffusion_pytorch_model.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_missing_or_damaged_file_is_named_with_what_gets_it(
    weights: Sdxl, refiner: SdxlRefiner, copied: Sdxl, name: str, damage: str
) -> None:
    path = copied.base.parent / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelNotFound, match="weights pull sdxl") as caught:
        loaded(copied, cache=weights.base.parent / "cache")
    assert path.parent.name in caught.value.message


def test_weights_of_another_shape_are_refused(weights: Sdxl, copied: Sdxl) -> None:
    from safetensors.torch import save_file

    state = unet().state_dict()
    state["conv_in.weight"] = state["conv_in.weight"][:16].clone()
    save_file(state, copied.base / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(ModelNotFound, match="damaged or of another network"):
        loaded(copied, cache=weights.base.parent / "cache")
