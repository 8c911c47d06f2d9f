"""The training's promises: numbered data, resumable to the batch, a schedule, and files that load."""

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from server.shim import SRVGGNetCompact
from training import data, degrade, export, fidelity, plot
from training.degrade import Pixels

TINY = fidelity.ARCHITECTURE | {"num_feat": 8, "num_conv": 2}


def scene(seed: int, h: int = 288, w: int = 320) -> Pixels:
    """Something with edges, gradients and grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 16, w // 16, 3), np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BILINEAR), np.int16)
    return np.asarray(np.clip(large + rng.integers(-12, 13, (h, w, 3)), 0, 255), np.uint8)


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(data, "WINDOW", 12)
    return 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture folder with its manifest: two to train on, one to validate with."""
    root = tmp_path / "pictures"
    root.mkdir()
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split"])
        for i, split in enumerate(("train", "train", "val")):
            Image.fromarray(scene(i)).save(root / f"{i}.png")
            writer.writerow([f"{i}.png", split])
    return root


def run(folder: Path, out: Path, *, steps: int) -> dict[str, Any]:
    """Train on two samples a step and return the checkpoint."""
    sizes = ["--batch", "2", "--crop", "16", "--workers", "0"]
    fidelity.main(["--pictures", str(folder), "--out", str(out), "--steps", str(steps), *sizes])
    state: dict[str, Any] = torch.load(out / "latest.pt", weights_only=True)
    return state


@pytest.mark.parametrize("kind", ["clean", "light", "second_order", "degrade"])
def test_damage_is_a_function_of_the_seed(kind: str) -> None:
    hr = scene(0, 128, 96)

    def damaged(seed: int) -> Pixels:
        if kind == "clean":
            return degrade.clean(hr)
        result: Pixels = getattr(degrade, kind)(hr, np.random.default_rng(seed))
        return result

    first = damaged(1)
    assert first.shape == (32, 24, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, damaged(1))
    if kind in ("light", "second_order"):
        assert not np.array_equal(first, damaged(2))


def test_damage_leaves_the_brightness_near_where_it_was() -> None:
    hr = scene(0)
    means = [degrade.second_order(hr, np.random.default_rng(seed)).mean() for seed in range(8)]
    assert abs(float(np.mean(means)) - hr.mean()) < 6


def test_a_pair_depends_on_its_number_alone() -> None:
    pictures = [scene(0), scene(1)]
    here, there = data.Pairs(pictures, 7, first=0, count=100), data.Pairs(pictures, 7, first=5, count=100)
    for a, b in zip(here[8], there[3], strict=True):
        assert np.array_equal(a, b)
    lr, hr = here[8]
    assert lr.shape == (data.LR_SIZE, data.LR_SIZE, 3)
    assert hr.shape == (data.HR_SIZE, data.HR_SIZE, 3)


def test_a_picture_smaller_than_a_crop_is_enlarged() -> None:
    cut = data.crop(scene(0, 64, 96), np.random.default_rng(0))
    assert cut.shape == (data.HR_SIZE, data.HR_SIZE, 3)


@pytest.mark.parametrize("step", [1, 3, 9])
def test_a_resumed_stream_gives_the_batches_of_an_unbroken_one(small_window: int, step: int) -> None:
    pictures = [scene(0), scene(1)]

    def stream(first: int, number: int) -> list[data.Batch]:
        made = data.batches(pictures, seed=3, step=first, batch=4, lr_crop=16, fresh=2, workers=0)
        return list(islice(made, number))

    unbroken, resumed = stream(0, step + 2), stream(step, 2)
    for (lr, hr), (lr_again, hr_again) in zip(unbroken[step:], resumed, strict=True):
        assert torch.equal(lr, lr_again)
        assert torch.equal(hr, hr_again)
    assert unbroken[0][0].shape == (4, 3, 16, 16)
    assert unbroken[0][1].shape == (4, 3, 64, 64)


def test_low_and_high_resolution_stay_aligned_through_turns_and_flips() -> None:
    hr = scene(0, data.HR_SIZE, data.HR_SIZE)
    lr = hr[::4, ::4]
    for seed in range(8):
        small, large = data._vary(lr, hr, 16, np.random.default_rng(seed))
        # A turned picture's samples lie at another corner of their 4×4 cells, so each must be somewhere in its own.
        cells = large.reshape(16, 4, 16, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
        assert (cells == small[:, :, None]).all(axis=-1).any(axis=-1).all()


def test_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    rates = [fidelity.learning_rate(step, 10_000, 1e-3) for step in range(10_001)]
    assert rates[0] == pytest.approx(1e-3 / fidelity.WARMUP_STEPS)
    assert rates[fidelity.WARMUP_STEPS : 8001] == pytest.approx([1e-3] * (8001 - fidelity.WARMUP_STEPS))
    assert rates[9000] == pytest.approx(5e-4)
    assert rates[10_000] == 0


def test_the_loss_of_the_target_itself_is_zero() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert fidelity.loss_of(image, image) == 0
    assert fidelity.loss_of(image + 0.1, image) > 0.1


def test_training_resumes_and_exports(
    folder: Path, tmp_path: Path, small_window: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fidelity, "ARCHITECTURE", TINY)
    out = tmp_path / "run"
    first = run(folder, out, steps=3)
    assert first["step"] == 3
    again = run(folder, out, steps=5)
    assert "resuming at step 3" in capsys.readouterr().out
    assert again["step"] == 5
    assert not torch.equal(first["params"]["body.0.weight"], again["params"]["body.0.weight"])

    bundled = tmp_path / "weights" / "bundled"
    bundled.mkdir(parents=True)
    manifest = bundled.parent / "manifest.toml"
    entry = '[models.tiny]\n# kept\nsha256 = ""\nbytes = 0\n\n[models.other]\nsha256 = "untouched"\nbytes = 7\n'
    manifest.write_text(entry, "utf-8")
    export.main([str(out / "latest.pt"), "--name", "tiny", "--out", str(bundled)])
    path = bundled / "tiny.safetensors"
    assert [each.name for each in bundled.iterdir()] == ["tiny.safetensors"]

    net = SRVGGNetCompact(**TINY)
    net.load_state_dict(load_file(path), strict=True)
    for key, tensor in net.state_dict().items():
        assert torch.equal(tensor, again["params_ema"][key].half().float())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["architecture"]) == {"class": "SRVGGNetCompact"} | TINY
    assert (metadata["scale"], metadata["steps"], metadata["licence"]) == ("4", "5", "Apache-2.0")

    printed = capsys.readouterr().out
    lines = manifest.read_text("utf-8").splitlines()
    assert f'sha256 = "{printed.split()[-1]}"' == lines[2]
    assert lines[3] == f"bytes = {path.stat().st_size}"
    assert lines[5:] == entry.splitlines()[5:]
    before = path.read_bytes()
    export.export(out / "latest.pt", "tiny", bundled)
    assert path.read_bytes() == before, "the same checkpoint must give the same bytes"


def test_the_manifest_must_know_the_name(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.toml"
    manifest.write_text('[models.a]\nsha256 = ""\nbytes = 0\n', "utf-8")
    with pytest.raises(SystemExit, match=r"no entry \[models\.b\]"):
        export.update_manifest(manifest, "b", "00", 1)


def test_a_log_with_repeated_steps_is_drawn(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines: list[dict[str, float]] = [
        {"step": 100, "loss": 0.5},
        {"step": 200, "loss": 0.4, "psnr_clean": 25.0, "psnr_degraded": 20.0},
        {"step": 200, "loss": 0.3, "psnr_clean": 26.0, "psnr_degraded": 21.0},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert [line["loss"] for line in plot.read_log(log)] == [0.5, 0.3]
    plot.main([str(log), "--out", str(tmp_path / "log.png")])
    with Image.open(tmp_path / "log.png") as picture:
        assert picture.format == "PNG"
