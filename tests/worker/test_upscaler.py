"""What the process keeps loaded, and networks between two others."""

import functools
import hashlib
import io
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from server.cli.doctor import _examine
from server.config import Config
from server.engine.model_cache import ModelCache
from server.errors import InvalidField, ModelNotFound, Unavailable
from server.job.amounts import Amount
from server.job.job import Params
from server.kernels import cpu as kernels
from server.kernels.cpu import build
from server.models import Model, load_state, mix
from server.weights.catalog import Catalog, Weights
from server.weights.choice import FIDELITY, LARGE_X4, REAL_ESRGAN
from server.weights.faces import FaceWeights
from server.weights.manifest import read_manifest
from server.weights.rates import read_rates, write_rates
from server.weights.store import sha256_of
from server.worker.upscaler import Upscaler
from tests import networks
from tests.conftest import MakeConfig, Picture
from tests.engine.fake_device import fake_cuda
from tests.networks import rrdbnet, save, srvgg
from tests.paths import ROOT

ENTRY = """
[models.{name}]
kind = "upscaler"
bundled = {bundled}
file = "{name}.pth"
arch = "srvgg"
scale = 4
tile = 64
halo = 8
licence = "Apache-2.0"
commercial = true
note = ""
"""
NAMES = {
    "fidelity-x4": True,
    "RealESRGAN_x4plus": True,
    "realesr-general-x4v3": False,
    "realesr-general-wdn-x4v3": False,
}


@pytest.fixture
def small(tmp_path: Path) -> Catalog:
    """Small networks under the names of the real ones, with the seeds 0, 1, 2, 3 in their order."""
    (tmp_path / "bundled").mkdir()
    entries = [ENTRY.format(name=name, bundled=str(bundled).lower()) for name, bundled in NAMES.items()]
    (tmp_path / "manifest.toml").write_text("".join(entries), "utf-8")
    weights = tmp_path / "weights"
    weights.mkdir()
    for seed, (name, bundled) in enumerate(NAMES.items()):
        save(networks.seeded(srvgg(), seed), (tmp_path / "bundled" if bundled else weights) / f"{name}.pth")
    return Catalog(weights, manifest=read_manifest(tmp_path))


@pytest.fixture
def upscaler(tmp_path: Path, small: Catalog) -> Upscaler:
    config = Config(
        data_dir=tmp_path / "data",
        weights_dir=tmp_path / "weights",
        device="cpu",
        dtype="fp32",
        kernels="off",
        real_esrgan="always",
    )
    return Upscaler(config, small, allow_paths=True)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that waits until the returned file is there, and then gives the library that was compiled before, or fails if
    the file is not empty. The cache is empty."""
    library, go = kernels.load(), tmp_path / "go"
    if not isinstance(library, kernels.Kernel):
        pytest.skip(f"no own kernels: {library}")
    (tmp_path / "library").write_bytes(build.library().path.read_bytes()[: -len(build._tail(b""))])
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "c++"
    script.write_text(
        f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.02; done\n[ -s {go} ] && exit 3\n"
        f'for last; do :; done\ncat {tmp_path}/library > "$last"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/bin:/usr/bin")
    load = functools.partial(kernels.load.__wrapped__, tmp_path / "cache")
    monkeypatch.setattr("server.worker.upscaler.load_kernel", load)
    return go


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_does_not_wait_for_the_compiler(
    upscaler: Upscaler, compiler: Path, picture: Picture, fails: bool
) -> None:
    config = upscaler._config.model_copy(update={"kernels": "auto", "auto_limit_s": 60.0, "data_dir": compiler.parent})
    worker = Upscaler(config, upscaler._catalog, compile_beside=True)

    def enlarged() -> tuple[bytes, bool]:
        ctx = worker.run(worker.prepare(Params(scale=4), picture(), config.weights_path / "result.png"))
        assert ctx.loaded is not None
        return ctx.target.read_bytes(), ctx.loaded.model.native is not None

    worker.warm()
    thread, (before, on_kernels) = worker._compiler, enlarged()
    assert thread is not None and thread.is_alive() and not on_kernels
    assert worker.kernels == "being compiled; until then torch does their work"
    worker._running.add(0)
    compiler.write_text("no" if fails else "")
    thread.join(0.5)
    assert thread.is_alive(), "it waits for a moment without jobs, to measure the speed"
    slow = worker.rates()
    worker._running.remove(0)
    thread.join()
    assert worker.rates() is not slow and "used" in (config.cache_dir / "rates.json").read_text("utf-8")
    after, on_kernels = enlarged()
    assert on_kernels is not fails
    assert worker.kernels.startswith("not used: " if fails else "used, ") and (
        fails or "compiled now" in worker.kernels
    )
    one, other = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (before, after))
    assert abs(one - other).max() <= 1


def test_a_stored_speed_that_jobs_contradict_is_measured_again(upscaler: Upscaler) -> None:
    config = upscaler._config.model_copy(update={"auto_limit_s": 60.0})
    before = Upscaler(config, upscaler._catalog)
    right, amount = before.rates(), Amount("upscale", FIDELITY, 200_000)
    write_rates(config.cache_dir, before.machine, {FIDELITY: 500 * right[FIDELITY], LARGE_X4: 3 * right[LARGE_X4]})
    trusting = Upscaler(config, upscaler._catalog).rates()
    assert trusting[FIDELITY] == 500 * right[FIDELITY], "no job has run"
    for _ in range(5):
        before.durations.learn({"upscale": amount.amount / right[FIDELITY]}, [amount], FIDELITY)
    before.durations.write()
    after = Upscaler(config, upscaler._catalog).rates()
    assert after[FIDELITY] < 50 * right[FIDELITY]
    assert after[LARGE_X4] == 3 * right[LARGE_X4]
    assert read_rates(config.cache_dir, before.machine) == after


def test_the_speed_of_other_weights_of_the_same_name_is_not_used(upscaler: Upscaler) -> None:
    small = Upscaler(upscaler._config.model_copy(update={"auto_limit_s": 60.0}), upscaler._catalog)
    small.rates()
    real = Upscaler(small._config, Catalog.of(small._config))
    assert set(read_rates(small._config.cache_dir, small.machine)) == {FIDELITY, LARGE_X4}
    assert read_rates(small._config.cache_dir, real.machine) == {}


def test_a_speed_that_no_machine_has_is_not_kept(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Upscaler(upscaler._config.model_copy(update={"auto_limit_s": 60.0}), upscaler._catalog)
    monkeypatch.setattr(worker._engine, "worked_s", lambda: 1.0)
    assert worker.rates() == {}
    assert read_rates(worker._config.cache_dir, worker.machine) == {}
    monkeypatch.undo()
    assert set(Upscaler(worker._config, worker._catalog).rates()) == {FIDELITY, LARGE_X4}


def test_without_opencv_a_worker_starts_and_refuses_only_faces(
    upscaler: Upscaler, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where libGL is missing, which the package asks for that basicsr and gfpgan bring."""
    code = "import sys, server.worker.loop; sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    for name in [name for name in sys.modules if name == "cv2" or name.startswith("server.faces")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cv2", None)
    anything = Weights("any", save(srvgg(), tmp_path / "any.pth"), ((tmp_path / "any.pth", None),), "", "")
    monkeypatch.setattr("server.worker.upscaler.face_weights", lambda _: FaceWeights(anything, anything, None))
    with pytest.raises(Unavailable, match="faces need OpenCV, .*cv2.* --no-deps opencv-python-headless"):
        upscaler.load_faces()
    ctx = upscaler.run(upscaler.prepare(Params(scale=4), picture(), tmp_path / "result.png"))
    with Image.open(ctx.target) as result:
        assert result.size == (128, 96)


def no_kernel(name: str) -> None:
    if name == "conv2d":
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


@pytest.mark.slow
def test_doctor_says_what_the_self_test_of_a_gpu_found(config: MakeConfig) -> None:
    made = config(device="cuda", dtype="fp32")
    with fake_cuda() as gpu:
        assert _examine(made)["self-test"].startswith("passed: 0.0")
        gpu.before = no_kernel
        assert _examine(made)["self-test"].startswith("PROBLEM: the self-test failed")


def test_a_gpu_is_tested_before_it_is_ready(small: Catalog, config: MakeConfig) -> None:
    with fake_cuda() as gpu:
        upscaler = Upscaler(config(device="cuda", dtype="fp32"), small)
        upscaler.warm()
        assert upscaler.self_test() < 0.1 and upscaler.works()
        gpu.before = no_kernel
        with pytest.raises(Unavailable, match="the self-test failed: .* has compute capability 8.6"):
            upscaler.warm()


def test_gpu_kernels_that_fail_the_self_test_are_not_used(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, config = upscaler._catalog, upscaler._config.model_copy(update={"kernels": "triton", "dtype": "auto"})
    assert Upscaler(config, catalog).gpu_kernels == "not used: they need a GPU"

    def wrong(*_: object) -> None:
        raise ValueError("this machine has no compiler")

    monkeypatch.setattr("server.kernels.cuda.network.Network.__call__", wrong)
    with fake_cuda():
        upscaler = Upscaler(config.model_copy(update={"device": "cuda"}), catalog)
        assert upscaler.gpu_kernels == "used"
        assert upscaler.self_test() < 2
        assert upscaler.gpu_kernels.startswith("not used: the self-test failed: ")
        assert "no compiler" in upscaler.gpu_kernels


def test_doctor_says_why_a_gpu_is_not_used(config: MakeConfig) -> None:
    with fake_cuda() as gpu:
        gpu.seen_by_nvml, gpu.seen_by_cuda = 2, 0
        facts = _examine(config(device="auto"))
        assert facts["GPU"].startswith("PROBLEM: a GPU is here, but torch can't use it: NVML sees 2 GPUs")
        assert facts["device"].endswith("a GPU is here, but torch can't use it")
        facts = _examine(config(device="cuda"))
        assert facts["device"].startswith("PROBLEM: NVML sees 2 GPUs")


def state_of(model: Model) -> dict[str, torch.Tensor]:
    return model._net.state_dict()


def seeded_state(seed: int) -> dict[str, torch.Tensor]:
    return networks.seeded(srvgg(), seed).state_dict()


def assert_between(model: Model, first: int, second: int, share: float) -> None:
    one, other = seeded_state(first), seeded_state(second)
    for key, value in state_of(model).items():
        torch.testing.assert_close(value, share * one[key] + (1 - share) * other[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("creativity", "seed", "share"), [(-2.0, 0, 0.0), (-0.8, 1, 0.4), (None, 1, 0.0), (0.0, 1, 0.0), (1.0, 1, 0.0)]
)
def test_creativity_goes_from_one_networks_result_to_the_others(
    upscaler: Upscaler, creativity: float | None, seed: int, share: float
) -> None:
    loaded = upscaler.load(Params(scale=4, creativity=creativity, model=REAL_ESRGAN))
    assert_between(loaded.model, seed, seed, 1)
    assert (loaded.fidelity is not None) == bool(share)
    if loaded.fidelity is not None:
        assert_between(loaded.fidelity, 0, 0, 1)
        assert loaded.choice.fidelity == share


@pytest.mark.parametrize("denoise", [0.0, 0.3, 1.0])
def test_denoise_goes_from_the_grainy_network_to_the_smooth_one(upscaler: Upscaler, denoise: float) -> None:
    loaded = upscaler.load(Params(scale=4, model="realesr-general-x4v3", denoise=denoise))
    assert_between(loaded.model, 2, 3, denoise)


def test_the_result_names_the_mix_and_the_hash_of_its_recipe(upscaler: Upscaler, tmp_path: Path) -> None:
    loaded = upscaler.load(Params(scale=4, creativity=-0.8, model=REAL_ESRGAN))
    assert (loaded.name, loaded.form) == ("fidelity-x4 0.4 + RealESRGAN_x4plus 0.6", None)
    one, other = (sha256_of(tmp_path / "bundled" / f"{name}.pth") for name in ("fidelity-x4", "RealESRGAN_x4plus"))
    recipe = f"0.4  {one}  fidelity-x4\n0.6  {other}  RealESRGAN_x4plus\n"
    assert loaded.sha256 == hashlib.sha256(recipe.encode()).hexdigest()
    alone = upscaler.load(Params(scale=4, creativity=-2))
    assert (alone.name, alone.sha256, alone.form) == ("fidelity-x4", one, "bundled")


def test_a_mix_of_weights_is_made_once_and_the_oldest_gives_way(upscaler: Upscaler, tmp_path: Path) -> None:
    upscaler._cache = ModelCache(4 * (tmp_path / "bundled" / "fidelity-x4.pth").stat().st_size)

    def load(denoise: float) -> Model:
        return upscaler.load(Params(scale=4, denoise=denoise)).model

    first = load(0.5)
    assert load(0.501) is first, "a two-hundredth is the same"
    oldest = weakref.ref(load(0.4))
    kept = [load(0.3), load(0.2)]
    assert load(0.5) is first
    load(0.1)
    assert load(0.5) is first, "used last"
    assert oldest() is None
    assert load(0.3) is kept[0], "it has left too, but a job still holds it: it is not loaded beside itself"


def test_two_networks_of_different_shapes_are_not_mixed() -> None:
    small, large = srvgg(num_conv=4).state_dict(), srvgg(num_conv=6).state_dict()
    with pytest.raises(ModelNotFound, match="^a 0.5 . b 0.5 can't be mixed: its networks are not of the same shape$"):
        mix([(small, 0.5), (large, 0.5)], "a 0.5 + b 0.5")
    with pytest.raises(ModelNotFound):
        mix([(small, 0.5), (rrdbnet().state_dict(), 0.5)], "a 0.5 + b 0.5")


def test_a_damaged_half_is_refused(tmp_path: Path) -> None:
    """By the shared manifest, whose hashes are known."""
    config = Config(weights_dir=tmp_path, device="cpu", dtype="fp32", kernels="off")
    upscaler = Upscaler(config, Catalog.of(config))
    for name in ("realesr-general-x4v3", "realesr-general-wdn-x4v3"):
        save(srvgg(), tmp_path / f"{name}.pth")
    with pytest.raises(ModelNotFound, match="the weights of 'realesr-general-x4v3' are damaged"):
        upscaler.load(Params(scale=4, denoise=0.5))


def test_a_path_is_a_network_too_but_has_no_denoise(upscaler: Upscaler, tmp_path: Path) -> None:
    path = save(srvgg(upscale=2), tmp_path / "mine.pth")
    loaded = upscaler.load(Params(scale=4, model=str(path)))
    assert (loaded.name, loaded.sha256, loaded.form, loaded.model.facts.scale) == ("mine", sha256_of(path), "own", 2)
    strict = upscaler.load(Params(scale=4, model=str(path), creativity=-2))
    assert (strict.name, strict.choice.creativity) == ("fidelity-x4", -2)
    half = upscaler.load(Params(scale=4, model=str(path), creativity=-1))
    assert half.name == "fidelity-x4 0.5 + mine 0.5" and half.fidelity is strict.model
    with pytest.raises(InvalidField, match="mine.pth has no denoise strength"):
        upscaler.load(Params(scale=4, model=str(path), denoise=0.5))


def test_the_official_pair_mixes_as_the_original_command_does() -> None:
    """realesrgan's dni: `state[k] = d * general[k] + (1 - d) * wdn[k]`."""
    general, grainy = (load_state(networks.official(f"realesr-general-{name}x4v3.pth")) for name in ("", "wdn-"))
    mixed = mix([(general, 0.7), (grainy, 0.3)], "both")
    for key, value in mixed.items():
        torch.testing.assert_close(value, 0.7 * general[key] + 0.3 * grainy[key])
