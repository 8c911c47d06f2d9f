"""The bundled refiner: what it reads, what it refuses, and that it is a denoiser."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from server.detailnet import RESIDUAL_SCALE, TRAIN_STEPS, DetailNet, signal_and_noise
from server.errors import ModelNotFound
from server.refiners.bundled.refiner import BundledRefiner, Ddim, load
from server.refiners.bundled.settings import settings
from server.weights.catalog import FOLDER

CPU = torch.device("cpu")
BUNDLED = FOLDER / "bundled" / "refiner.safetensors"


def loaded(path: Path = BUNDLED) -> BundledRefiner:
    return load(path, name="refiner", sha256=None, device=CPU, dtype=torch.float32)


def small() -> DetailNet:
    torch.manual_seed(0)
    net = DetailNet((8, 16, 16), (1, 1, 1), 16)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


def test_the_schedule_is_the_one_of_diffusers() -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(num_train_timesteps=TRAIN_STEPS, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    signal, noise = signal_and_noise(torch.arange(TRAIN_STEPS))
    assert torch.allclose(signal.square(), theirs, atol=1e-5)
    assert torch.allclose(signal.square() + noise.square(), torch.ones(TRAIN_STEPS), atol=1e-5)


def test_it_is_built_as_its_file_says(tmp_path: Path) -> None:
    net = small()
    metadata = {"architecture": json.dumps(net.architecture)}
    save_file(net.state_dict(), tmp_path / "net.safetensors", metadata)
    noisy, picture, step = torch.randn(2, 3, 32, 48), torch.rand(2, 3, 32, 48), torch.tensor([5, 5])
    mine = loaded(tmp_path / "net.safetensors").denoise(noisy, picture, torch.tensor(5), settings(0))
    assert torch.allclose(mine, net(noisy, picture, step), atol=1e-5)


@pytest.mark.parametrize("metadata", [{}, {"architecture": "{}"}, {"architecture": '{"class": "SRVGGNetCompact"}'}])
def test_another_networks_file_is_refused_in_words(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file(small().state_dict(), tmp_path / "net.safetensors", metadata)
    with pytest.raises(ModelNotFound, match="holds no refiner"):
        loaded(tmp_path / "net.safetensors")


def test_weights_that_do_not_fit_and_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    architecture = {"architecture": json.dumps(DetailNet((16, 16), (1, 1), 16).architecture)}
    save_file(small().state_dict(), tmp_path / "net.safetensors", architecture)
    with pytest.raises(ModelNotFound, match="don't fit"):
        loaded(tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelNotFound, match="damaged"):
        loaded(tmp_path / "net.safetensors")


@pytest.mark.parametrize("creativity", [0.0001, 0.01, 0.5])
def test_the_faintest_strength_has_steps_too(creativity: float) -> None:
    wanted = settings(creativity)
    assert len(loaded().scheduler(wanted)[1]) == wanted.steps >= 1


@pytest.mark.parametrize("creativity", [1.0, 2.0])
def test_the_steps_start_at_the_strength_and_end_near_no_noise(creativity: float) -> None:
    wanted = settings(creativity)
    _, steps = loaded().scheduler(wanted)
    assert len(steps) == wanted.steps
    assert steps[0] == pytest.approx(wanted.strength * TRAIN_STEPS, abs=TRAIN_STEPS * wanted.strength * 0.15)
    assert all(one > other for one, other in zip(steps, steps[1:], strict=False))


def test_it_finds_most_of_a_detail_under_noise() -> None:
    """What a seeded network can't do: this one was trained."""
    rng = torch.Generator().manual_seed(0)
    picture = torch.full((1, 3, 128, 128), 0.5)
    detail = torch.zeros(1, 3, 128, 128)
    step = torch.tensor(300)
    signal, noise = signal_and_noise(step[None])
    noisy = signal * detail + noise * torch.randn(detail.shape, generator=rng)
    left = loaded().denoise(noisy, picture, step, settings(0)) - detail
    assert left.std() < 0.25 * noise.item()


def test_far_pixels_do_not_reach_across() -> None:
    """What lets tiles stand for the whole: a change moves nothing that is far from it."""
    refiner = loaded()
    noisy, picture = torch.zeros(1, 3, 64, 640), torch.full((1, 3, 64, 640), 0.5)
    changed = picture.clone()
    changed[..., :32] = 1.0
    one, other = (refiner.denoise(noisy, each, torch.tensor(100), settings(0)) for each in (picture, changed))
    assert (one - other)[..., 300:].abs().max() == 0
    assert (one - other)[..., 32 + 48 :].abs().max() / RESIDUAL_SCALE < 1 / 255


def test_the_bundled_file_is_small_and_says_what_it_is() -> None:
    assert BUNDLED.stat().st_size < 32_000_000
    parameters = sum(tensor.numel() for tensor in load_file(BUNDLED).values())
    assert 5_000_000 < parameters < 15_000_000


@pytest.mark.parametrize("count", [1, 2, 7, 9, 14, 154, 1000])
def test_its_steps_are_those_of_diffusers(count: int) -> None:
    from diffusers import DDIMScheduler

    theirs: Any = DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(count)
    ours = Ddim(count)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    generator = torch.Generator().manual_seed(count)
    latent, noise, clean = torch.randn(3, 1, 3, 4, 4, generator=generator)
    first = ours.timesteps[:1]
    torch.testing.assert_close(ours.add_noise(latent, noise, first), theirs.add_noise(latent, noise, first))
    for step in ours.timesteps[:: max(1, count // 20)]:
        expected = theirs.step(clean, step, latent, return_dict=False)[0]
        torch.testing.assert_close(ours.step(clean, step, latent)[0], expected, atol=1e-3, rtol=0)
