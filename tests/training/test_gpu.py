"""The training on a GPU, tested on the CPU: the packed file, JPEG in torch, the degradations."""

import io
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.paths import ROOT
from training import gpu, pack, pictures
from training.conditions import Large
from training.dataset import HR_SIZE, SCALE, Batch, Mix, Pixels, Teacher
from training.jpeg import jpeg
from training.packed import Packed, filtered, restored
from training.synthetic import Pages
from training.validation import Validation

MIX = Mix(clean=0.2, light=0.2, recompressed=0.2, screenshot=0.2, synthetic=0.3)
KINDS = (gpu.clean, gpu.light, gpu.recompressed, gpu.screenshot, gpu.second_order)


def scene(seed: int, h: int = HR_SIZE, w: int = HR_SIZE) -> Pixels:
    """A picture with edges, gradients and grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 16, w // 16, 3), np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC), np.int16)
    return np.asarray(np.clip(large + rng.integers(-12, 13, (h, w, 3)), 0, 255), np.uint8)


def tensor(*scenes: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def packed() -> Packed:
    hr, lr = scene(0), scene(1, 64, 64)
    validation = Validation(clean=[(lr, hr)] * 2, degraded=[(lr[::-1], hr)] * 2, large=[scene(2, 120, 120)] * 2)
    return Packed(np.stack([scene(3), scene(4)]), np.stack([scene(5)]), validation)


def test_filtering_loses_nothing() -> None:
    pictures = np.stack([scene(0), np.random.default_rng(0).integers(0, 256, (HR_SIZE, HR_SIZE, 3), np.uint8)])
    assert np.array_equal(restored(filtered(pictures)), pictures)


def test_a_packed_file_comes_back_and_is_the_same_each_time(packed: Packed, tmp_path: Path) -> None:
    packed.save(tmp_path / "a.npz")
    packed.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = Packed.load(tmp_path / "a.npz")
    assert np.array_equal(again.train, packed.train)
    assert np.array_equal(again.synthetic, packed.synthetic)
    for kind in ("clean", "degraded"):
        for pair, pair_again in zip(getattr(packed.validation, kind), getattr(again.validation, kind), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(pair, pair_again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(packed.validation.large, again.validation.large, strict=True))


def test_the_trainers_take_a_packed_file_for_a_folder(packed: Packed, tmp_path: Path) -> None:
    packed.save(tmp_path / "a.npz")
    assert [crop.shape for crop in pictures.load_training(tmp_path / "a.npz")] == [(HR_SIZE, HR_SIZE, 3)] * 2
    assert len(pictures.load_validation(tmp_path / "a.npz").degraded) == 2


@pytest.mark.parametrize("content", [None, b"", b"not an archive", b"PK\x03\x04"])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(SystemExit, match="neither a folder of pictures nor a packed file"):
        Packed.load(tmp_path / "a.npz")


def test_packing_spends_its_budget_evenly(tmp_path: Path) -> None:
    sources = [scene(i, 800, 1100) for i in range(3)]
    one = len(filtered(sources[0][None, :HR_SIZE, :HR_SIZE]).tobytes())
    crops = pack.choose(sources, budget=4 * one, seed=0)
    assert crops.shape[1:] == (HR_SIZE, HR_SIZE, 3)
    assert 4 <= len(crops) <= 8
    assert np.array_equal(crops, pack.choose(sources, budget=4 * one, seed=0))
    everything = pack.choose(sources, budget=10**9, seed=0)
    assert len(everything) == 3 * (3 * 4 + 1 * 2)


def test_the_busy_places_of_a_picture_are_likelier() -> None:
    picture = np.full((4 * HR_SIZE, 4 * HR_SIZE, 3), 128, np.uint8)
    picture[:, : HR_SIZE * 2] = scene(0, 4 * HR_SIZE, 2 * HR_SIZE)
    firsts = [next(pack._by_chance(picture, np.random.default_rng(seed))) for seed in range(20)]
    assert sum(np.ptp(crop) > 50 for crop in firsts) >= 18


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pack, "Pages", lambda seed: Pages(seed, count=1))
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "manifest.csv").write_text("file,split\n0.png,train\n1.png,val\n", "utf-8")
    for i in range(2):
        Image.fromarray(scene(i, 480, 512)).save(folder / f"{i}.png")
    pack.main(["--pictures", str(folder), "--out", str(tmp_path / "a.npz"), "--mib", "1.2"])
    assert (tmp_path / "a.npz").stat().st_size <= 1.2 * 2**20
    again = Packed.load(tmp_path / "a.npz")
    assert f"{len(again.train)} crops of pictures, {len(again.synthetic)} synthetic" in capsys.readouterr().out
    assert len(again.train) >= 1 and len(again.synthetic) >= 1


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
@pytest.mark.parametrize("halve_chroma", [False, True])
def test_jpeg_is_pillows(quality: int, halve_chroma: bool) -> None:
    picture = scene(0, 131, 203)  # sides that are no multiples of a block
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2 if halve_chroma else 0)
    theirs = np.asarray(Image.open(file), np.float32)
    image = tensor(picture, picture[::-1].copy())
    ours = jpeg(image, torch.tensor([quality, 10]), halve_chroma=halve_chroma)[0].permute(1, 2, 0).numpy()
    damage = np.abs(theirs - picture).mean()
    assert np.abs(ours - theirs).mean() < min(1.0, damage / 4)


@pytest.mark.parametrize("damage", KINDS)
def test_damage_is_a_function_of_the_seed(damage: gpu.Damage) -> None:
    hr = tensor(scene(0), scene(1))
    made = [damage(hr, generator(seed)) for seed in range(8)]
    for seed, lr in enumerate(made):
        assert lr.shape == (2, 3, HR_SIZE // SCALE, HR_SIZE // SCALE)
        assert lr.isfinite().all()
        assert torch.equal(lr, damage(hr, generator(seed)))
        assert (lr.mean((1, 2, 3)) - hr.mean((1, 2, 3))).abs().max() < 25
    different = len({lr.numpy().tobytes() for lr in made})
    assert different == 1 if damage is gpu.clean else different > 3


def test_kernels_keep_the_brightness() -> None:
    for kernels in (gpu._blur_kernels(32, generator(0), (0.2, 3.0)), gpu._sinc_kernels(32, generator(1))):
        assert kernels.shape == (32, gpu.KERNEL, gpu.KERNEL)
        assert torch.allclose(kernels.sum((1, 2)), torch.ones(32), atol=1e-5)


def test_each_image_gets_its_own_kernel() -> None:
    kernels = torch.zeros(2, gpu.KERNEL, gpu.KERNEL)
    kernels[0, 10, 10] = kernels[1, 10, 11] = 1
    image = tensor(scene(0), scene(1))
    filtered_ones = gpu._filter(image, kernels)
    assert torch.equal(filtered_ones[0], image[0])
    assert torch.equal(filtered_ones[1, :, :, :-1], image[1, :, :, 1:])


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "WINDOW", 3)
    monkeypatch.setattr(gpu, "GROUP", 2)


def stream(first: int, number: int, mix: Mix = MIX, teacher: Teacher | None = None) -> list[Batch]:
    sources = np.stack([scene(0), scene(1)]), np.stack([scene(2)])
    made = gpu.batches(
        *sources, mix, 3, first, batch=4, lr_crop=16, fresh=1, device=torch.device("cpu"), teacher=teacher
    )
    return list(islice(made, number))


@pytest.mark.usefixtures("small_window")
def test_a_resumed_stream_gives_the_batches_of_an_unbroken_one() -> None:
    unbroken, resumed = stream(0, 6), stream(4, 2)
    for before, again in zip(unbroken[4:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))
    lr, hr, target = unbroken[0]
    assert lr.shape == (4, 3, 16, 16)
    assert hr.shape == target.shape == (4, 3, 64, 64)
    assert min(lr.min(), hr.min()) >= 0 and max(lr.max(), hr.max()) <= 1


@pytest.mark.usefixtures("small_window")
def test_partners_stay_aligned_through_turns_and_flips() -> None:
    for lr, hr, _ in stream(0, 3, Mix(clean=1, light=0)):
        assert (torch.nn.functional.avg_pool2d(hr, SCALE) - lr)[..., 2:-2, 2:-2].abs().mean() < 0.02


@pytest.mark.usefixtures("small_window")
def test_a_teacher_knows_which_pairs_are_damaged() -> None:
    def inverted(lr: torch.Tensor, hr: torch.Tensor, damaged: bool) -> torch.Tensor:
        return 1 - lr.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3) if damaged else hr

    mild, damaged = (stream(0, 1, mix, inverted)[0] for mix in (Mix(clean=0.5, light=0.5), Mix(clean=0, light=0)))
    assert torch.equal(mild.target, mild.hr)
    assert torch.allclose(torch.nn.functional.avg_pool2d(damaged.target, SCALE), 1 - damaged.lr, atol=0.01)


@pytest.mark.usefixtures("small_window")
def test_plain_pairs_come_whole_and_grey_ones_are_grey() -> None:
    for lr, hr, target in stream(0, 3, Mix(clean=1, light=0, plain=1)):
        assert (torch.nn.functional.avg_pool2d(hr, SCALE) - lr).abs().max() < 0.01
        assert torch.equal(target, hr)
    for lr, hr, _ in stream(0, 3, Mix(clean=1, light=0, grey=1)):
        assert all((image.amax(1) - image.amin(1)).max() == 0 for image in (lr, hr))


def test_it_needs_no_more_than_torch_and_numpy(packed: Packed, tmp_path: Path) -> None:
    """With the packages that the machine lacks made impossible to import, a run's parts still work."""
    packed.save(tmp_path / "a.npz")
    torch.save({"params_ema": Large(blocks=1).state_dict()}, tmp_path / "large.pth")
    pack.save_large(tmp_path / "large.pth", tmp_path / "large.pt")
    code = f"""
import sys
for name in {["PIL", "cv2", "basicsr", "scipy", "safetensors", "matplotlib", "torchvision", "structlog"]!r}:
    sys.modules[name] = None
from pathlib import Path
import torch
import training.all
from training import gpu, network, pictures
from training.conditions import load_large
from training.packed import Packed
from training.dataset import Mix
large = load_large(Path({str(tmp_path / "large.pt")!r}), torch.device("cpu"))
packed = Packed.load(Path({str(tmp_path / "a.npz")!r}))
gpu.WINDOW = 2
net = network.Compact(features=4, depth=1).requires_grad_(False)
options = dict(batch=2, lr_crop=16, fresh=1, device=torch.device("cpu"), teacher=lambda lr, hr, bad: net(lr))
batch = next(gpu.batches(packed.train, packed.synthetic, Mix(clean=0, light=0, plain=0.5), 0, 0, **options))
measured = pictures.load_validation(Path({str(tmp_path / "a.npz")!r})).measure(net)
print(*batch.target.shape, *large(batch.lr).shape, *measured)
"""
    root = ROOT
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout.split() == ["2", "3", "64", "64"] * 2 + ["psnr_clean", "psnr_degraded"], run.stderr
