"""The training's promises: runs that resume as if unbroken, a schedule, twins that mix, and files that load."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

from server.shim import SRVGGNetCompact
from training import aim, data, export, fidelity, network, perceptual, plot, precision, run
from training import all as all_
from training.aim import Aim
from training.discriminator import Discriminator
from training.muon import optimizers
from training.pair import Pixels

TINY: dict[str, Any] = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 8,
    "num_conv": 2,
    "upscale": 4,
    "act_type": "prelu",
}
SIZES = ["--batch", "2", "--crop", "16", "--workers", "0", "--drawn", "0"]


def scene(seed: int, h: int = 288, w: int = 320) -> Pixels:
    """Something with edges, gradients and grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 16, w // 16, 3), np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BILINEAR), np.int16)
    return np.asarray(np.clip(large + rng.integers(-12, 13, (h, w, 3)), 0, 255), np.uint8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network, a critic and a window that a test can afford."""
    monkeypatch.setattr(data, "WINDOW", 6)
    monkeypatch.setattr(precision, "ROUNDS", 1)
    monkeypatch.setattr(fidelity, "Compact", lambda: network.Compact(features=8, depth=2))
    monkeypatch.setattr(perceptual, "Discriminator", lambda: Discriminator(features=4))


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


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A fidelity network of the tiny kind, as a bundled file."""
    torch.manual_seed(5)
    net = network.Compact(features=8, depth=2)
    network.initialise(net)
    save_file(net.state_dict(), tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def train_fidelity(folder: Path, out: Path, *, steps: int) -> dict[str, Any]:
    """Train on two samples a step and return the checkpoint."""
    fidelity.main(["--pictures", str(folder), "--out", str(out), "--steps", str(steps), *SIZES])
    return checkpoint(out)


def train_perceptual(
    folder: Path, out: Path, start: Path, *, steps: int, teacher: Path | None = None
) -> dict[str, Any]:
    options = ["--start", str(start), "--alone", "2", *(["--teacher", str(teacher)] if teacher else [])]
    perceptual.main(["--pictures", str(folder), "--out", str(out), "--steps", str(steps), *SIZES, *options])
    return checkpoint(out)


def checkpoint(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "latest.pt", weights_only=True)
    return state


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


def test_the_trained_network_is_the_one_that_is_served() -> None:
    torch.manual_seed(0)
    ours, served = network.Compact(features=8, depth=3), SRVGGNetCompact(3, 3, 8, 3, 4, "prelu")
    served.load_state_dict(ours.state_dict(), strict=True)
    image = torch.rand(2, 3, 12, 10)
    assert torch.allclose(ours(image), served(image), atol=1e-6)
    assert ours.architecture == TINY | {"num_conv": 3}


def test_the_precision_of_a_run_is_one_of_two() -> None:
    assert precision.fastest(torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert precision.fastest(torch.device("cuda")) == torch.bfloat16


def test_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    rates = [run.rate(step, 10_000) for step in range(10_001)]
    assert rates[0] == pytest.approx(1 / run.WARMUP_STEPS)
    assert rates[run.WARMUP_STEPS : 8001] == pytest.approx([1] * (8001 - run.WARMUP_STEPS))
    assert rates[9000] == pytest.approx(0.5)
    assert rates[10_000] == 0


def test_the_loss_of_the_target_itself_is_zero() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert fidelity.loss_of(image, image) == 0
    assert fidelity.loss_of(image + 0.1, image) > 0.1


@pytest.mark.parametrize("kind", ["fidelity", "perceptual"])
def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(
    folder: Path,
    tmp_path: Path,
    start: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "SAVE_EVERY", 3)
    for trainer in (fidelity, perceptual):  # no race, which either format may win
        monkeypatch.setattr(trainer, "fastest", lambda device: torch.float32)

    def train(out: Path) -> dict[str, Any]:
        if kind == "fidelity":
            return train_fidelity(folder, out, steps=5)
        return train_perceptual(folder, out, start, steps=5, teacher=start)

    unbroken = train(tmp_path / "unbroken")
    assert unbroken["step"] == 5

    class Stopped(Exception): ...

    def stop(self: run.Run, name: str, save: Any = run.Run._save) -> None:
        save(self, name)
        if self.step == 3:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(run.Run, "_save", stop)
        train(tmp_path / "stopped")
    stopped = checkpoint(tmp_path / "stopped")
    resumed = train(tmp_path / "stopped")
    assert "resuming at step 3" in capsys.readouterr().out
    for key, tensor in unbroken["params_ema"].items():
        assert not torch.equal(tensor, stopped["params_ema"][key]) or "weight" not in key
        torch.testing.assert_close(tensor, resumed["params_ema"][key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["fidelity", "perceptual"])
def test_either_precision_trains(
    folder: Path, tmp_path: Path, start: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        for trainer in (fidelity, perceptual):
            monkeypatch.setattr(trainer, "fastest", lambda device, dtype=dtype: dtype)
        out = tmp_path / str(dtype)
        if kind == "fidelity":
            state = train_fidelity(folder, out, steps=3)
        else:
            state = train_perceptual(folder, out, start, steps=3)
        assert all(tensor.dtype == torch.float32 for tensor in state["params"].values())
        ends.append(state["params"]["body.2.weight"])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)
    assert not torch.equal(*ends)


def test_both_networks_by_one_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_, "SIZES", SIZES)
    steps = ["--fidelity-steps", "2", "--perceptual-steps", "1"]
    all_.main(["--pictures", str(folder), "--out", str(tmp_path), "--device", "cpu", *steps])
    assert [checkpoint(tmp_path / kind)["step"] for kind in ("fidelity", "perceptual")] == [2, 1]


def test_a_new_rate_counts_for_a_resumed_run(folder: Path, tmp_path: Path) -> None:
    for steps, lr in (("2", "1e-3"), ("4", "5e-4")):
        arguments = ["--pictures", str(folder), "--out", str(tmp_path / "run"), "--steps", steps, "--lr", lr, *SIZES]
        fidelity.main(arguments)
    expected = 5e-4 * run.rate(3, 4)
    assert checkpoint(tmp_path / "run")["optimizers"][0]["param_groups"][0]["lr"] == pytest.approx(expected)


def test_the_aim_is_between_the_start_and_the_teacher_or_the_truth(start: Path) -> None:
    own, teacher = network.load(start), network.load(start)
    lr, hr = torch.rand(2, 3, 16, 16) * 0.4 + 0.3, torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        teacher.body[-1].bias.add_(0.1)  # type: ignore[operator]
        mine, theirs = own(lr).clamp(0, 1), teacher(lr).clamp(0, 1)
    torch.testing.assert_close(Aim(own, teacher, 0.25, 0)(lr, hr, True), 0.75 * mine + 0.25 * theirs)
    for each in (Aim(own, teacher, 0.25, 0), Aim(own, None, 0.25, 0)):
        torch.testing.assert_close(each(lr, hr, False), 0.75 * mine + 0.25 * hr)
    torch.testing.assert_close(Aim(own, None, 0.25, 0)(lr, hr, True), 0.75 * mine + 0.25 * hr)


def test_energy_measures_how_much_detail_there_is_and_not_which() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(2, 3, 64, 64, generator=generator)
    flat = torch.full_like(noise, 0.5, requires_grad=True)
    assert perceptual.energy(flat).shape == (2, 3, 8, 8) and perceptual.energy(flat).max() < 0.01
    other = torch.roll(noise, 8, dims=3)
    inner = slice(2, -2)
    assert 0.08 < perceptual.energy(noise).mean() < 0.11
    torch.testing.assert_close(
        perceptual.energy(0.5 + other)[..., inner, inner],
        torch.roll(perceptual.energy(0.5 + noise), 1, dims=3)[..., inner, inner],
    )
    perceptual.energy(flat).sum().backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None and flat.grad.isfinite().all(), "also where there is none"


def test_sharpening_is_an_unsharp_mask(start: Path) -> None:
    own = network.load(start)
    edge = torch.full((1, 3, 64, 64), 0.25)
    edge[..., 32:] = 0.75
    lr = edge[..., ::4, ::4]
    plain, sharp = Aim(own, None, 1, 0)(lr, edge, False), Aim(own, None, 1, 0.5)(lr, edge, False)
    torch.testing.assert_close(plain, edge)
    soft = torch.from_numpy(gaussian_filter(edge[0, 0].double().numpy(), aim.SIGMA, mode="mirror", radius=aim.RADIUS))
    torch.testing.assert_close(sharp[0, 0].double(), (1.5 * edge[0, 0] - 0.5 * soft).clamp(0, 1), atol=1e-6, rtol=0)


def test_muon_makes_updates_of_inner_weights_orthogonal(start: Path) -> None:
    net = network.load(start).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.rand(1, 3, 16, 16)).square().mean().backward()
    for optimizer in optimizers(net, 1e-2):
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in net.state_dict().items())
    change = (net.body[2].weight - before["body.2.weight"]).detach().flatten(1)  # type: ignore[operator]
    values = torch.linalg.svdvals(change)
    assert values.max() < 2 * values.min(), "all directions alike"
    assert change.square().mean().sqrt() == pytest.approx(0.2e-2, rel=0.3), "as large as AdamW's"


def test_the_perceptual_network_learns_from_its_teacher(folder: Path, tmp_path: Path, start: Path) -> None:
    """Not to be as good, which takes hours; but that what it says gets nearer to what the teacher says."""
    torch.manual_seed(1)
    teacher = network.load(start)
    with torch.no_grad():
        teacher.body[-1].bias.add_(0.3)  # type: ignore[operator]
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    alone = ["--clean", "0", "--light", "0", "--recompressed", "0", "--screenshot", "0"]
    arguments = ["--lr", "1e-2", *alone, "--share", "1", "--sharpen", "0"]
    paths = ["--start", str(start), "--teacher", str(tmp_path / "teacher.safetensors"), "--out", str(tmp_path / "run")]
    perceptual.main(["--pictures", str(folder), "--steps", "20", *SIZES, *paths, *arguments])
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before, aim = network.load(start)(image), teacher(image)
        after = network.Compact(features=8, depth=2)
        after.load_state_dict(checkpoint(tmp_path / "run")["params"])
        assert (after(image) - aim).abs().mean() < 0.8 * (before - aim).abs().mean()


def test_a_log_line_has_losses_and_a_validation(folder: Path, tmp_path: Path, start: Path) -> None:
    train_perceptual(folder, tmp_path / "run", start, steps=3)
    (line,) = log(tmp_path / "run")
    assert line.keys() >= {
        "step",
        "loss",
        "pixel",
        "features",
        "fooled",
        "caught",
        "lr",
        "psnr_clean",
        "psnr_degraded",
        "niqe",
    }
    assert 5 < line["psnr_degraded"] < 60


def test_twins_mix_linearly_from_one_end_to_the_other(folder: Path, tmp_path: Path, start: Path) -> None:
    train_perceptual(folder, tmp_path / "run", start, steps=3)
    fidelity_state = network.load(start).state_dict()
    perceptual_state = network.load(tmp_path / "run" / "latest.pt").state_dict()
    assert fidelity_state.keys() == perceptual_state.keys()
    image = torch.rand(1, 3, 16, 16)

    def mixed(share: float) -> torch.Tensor:
        net = network.Compact(features=8, depth=2)
        net.load_state_dict(
            {key: torch.lerp(fidelity_state[key], perceptual_state[key], share) for key in fidelity_state}
        )
        with torch.no_grad():
            output: torch.Tensor = net(image)
        return output

    ends = [mixed(0.0), mixed(1.0)]
    assert not torch.equal(*ends)
    with torch.no_grad():
        assert torch.equal(ends[0], network.load(start)(image))
    middle = (mixed(0.5) - (ends[0] + ends[1]) / 2).abs().max()
    assert middle < 0.1 * (ends[0] - ends[1]).abs().max(), "they must lie in one basin"


@pytest.mark.parametrize("critic_side", [64, 96])
def test_the_discriminator_judges_every_pixel(critic_side: int) -> None:
    torch.manual_seed(0)
    critic = Discriminator(features=4)
    logits, features = critic(torch.rand(2, 3, critic_side, critic_side))
    assert logits.shape == (2, 1, critic_side, critic_side)
    assert [each.shape[1] for each in features] == [4, 8, 16, 32, 4]


def test_the_discriminators_losses() -> None:
    torch.manual_seed(0)
    critic = Discriminator(features=4)
    image = torch.rand(2, 3, 32, 32)
    same = perceptual.compare(critic(image), critic(image))
    assert same["features"] < 0.2  # spectral normalisation moves a little with every call
    other = perceptual.compare(critic(torch.rand(2, 3, 32, 32)), critic(image))
    assert other["features"] > 2 * same["features"]
    sure = torch.full((2, 1, 4, 4), 9.0)
    right, wrong = (
        perceptual.compare((-sure, [sure]), (sure, [sure])),
        perceptual.compare((sure, [sure]), (-sure, [sure])),
    )
    assert right["caught"] < 0.01 < 17 < wrong["caught"]
    assert right["fooled"] > 8 and wrong["fooled"] < 0.01


@pytest.mark.parametrize(("size", "side"), [(192, 96), (68, 64)])
def test_the_discriminator_sees_a_window_of_half_the_batch(size: int, side: int) -> None:
    image = torch.zeros(4, 3, size, size)
    window = perceptual.judged(image, np.random.default_rng(3))
    assert image[window].shape == (2, 3, side, side)
    assert window == perceptual.judged(image, np.random.default_rng(3))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"params": {"conv_first.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(SystemExit, match="not a SRVGGNetCompact"):
        network.load(tmp_path / "other.pth")


def test_a_run_is_exported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    again = train_fidelity(folder, out, steps=5)

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
