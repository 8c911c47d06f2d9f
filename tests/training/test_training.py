"""Training runs resume exactly, follow the schedule of rates, and write files that load."""

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

from server.detailnet import DetailNet
from server.models.basicsr_shim import SRVGGNetCompact
from server.weights.catalog import FOLDER
from training import all as all_
from training import colour, cpu, export, fidelity, network, plot, precision, refiner, run
from training.dataset import Pixels
from training.muon import optimizers

TINY: dict[str, Any] = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 16,
    "num_conv": 3,
    "upscale": 4,
    "act_type": "prelu",
}
SIZES = ["--batch", "2", "--crop", "16", "--workers", "0", "--drawn", "0"]


def scene(seed: int, h: int = 288, w: int = 320) -> Pixels:
    """A picture with edges, gradients and grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 16, w // 16, 3), np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BILINEAR), np.int16)
    return np.asarray(np.clip(large + rng.integers(-12, 13, (h, w, 3)), 0, 255), np.uint8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks and a small window."""
    monkeypatch.setattr(cpu, "WINDOW", 6)
    monkeypatch.setattr(precision, "ROUNDS", 1)
    monkeypatch.setattr(fidelity, "Compact", lambda: network.Compact(features=16, depth=3))
    monkeypatch.setattr(refiner, "DetailNet", lambda: DetailNet((8, 16), (1, 1), 16))


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
    """A tiny fidelity network, as a bundled file."""
    torch.manual_seed(5)
    net = network.Compact(features=16, depth=3)
    network.initialise(net)
    save_file(net.state_dict(), tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


def train_fidelity(folder: Path, out: Path, *, steps: int) -> dict[str, Any]:
    """Train on two samples a step and return the checkpoint."""
    fidelity.main(["--pictures", str(folder), "--out", str(out), "--steps", str(steps), *SIZES])
    return checkpoint(out)


def train_refiner(folder: Path, out: Path, start: Path, *, steps: int) -> dict[str, Any]:
    arguments = ["--start", str(start), "--out", str(out), "--steps", str(steps), *SIZES]
    refiner.main(["--pictures", str(folder), *arguments])
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
    assert ours.architecture == TINY | {"num_feat": 8}


def test_the_precision_of_a_run_is_one_of_two() -> None:
    assert precision.fastest(torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert precision.fastest(torch.device("cuda")) == torch.bfloat16


def test_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    rates = [run.rate(step, 10_000) for step in range(10_001)]
    assert rates[0] == pytest.approx(1 / run.WARMUP_STEPS)
    assert rates[run.WARMUP_STEPS : 8001] == pytest.approx([1] * (8001 - run.WARMUP_STEPS))
    assert rates[9000] == pytest.approx(0.5)
    assert rates[10_000] == 0
    assert [run.rate(step, 1000, 10, 0.5) for step in (499, 750, 1000)] == pytest.approx([1, 0.5, 0])


def test_the_loss_of_the_target_itself_is_zero() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert fidelity.loss_of(image, image) == 0
    assert fidelity.loss_of(image + 0.1, image) > 0.1


@pytest.mark.parametrize("kind", ["fidelity", pytest.param("refiner", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(
    folder: Path,
    tmp_path: Path,
    start: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "SAVE_EVERY", 3)
    for trainer in (fidelity, refiner):  # no race, which either format may win
        monkeypatch.setattr(trainer, "fastest", lambda device: torch.float32)

    def train(out: Path) -> dict[str, Any]:
        if kind == "fidelity":
            return train_fidelity(folder, out, steps=5)
        return train_refiner(folder, out, start, steps=5)

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
        if kind == "fidelity" and key.endswith("weight"):
            assert not torch.equal(tensor, stopped["params_ema"][key])
        torch.testing.assert_close(tensor, resumed["params_ema"][key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["fidelity", pytest.param("refiner", marks=pytest.mark.slow)])
def test_either_precision_trains(
    folder: Path, tmp_path: Path, start: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        for trainer in (fidelity, refiner):
            monkeypatch.setattr(trainer, "fastest", lambda device, dtype=dtype: dtype)
        out = tmp_path / str(dtype)
        if kind == "fidelity":
            state = train_fidelity(folder, out, steps=3)
        else:
            state = train_refiner(folder, out, start, steps=3)
        assert all(tensor.dtype == torch.float32 for tensor in state["params"].values())
        ends.append(state["params"]["body.2.weight" if kind == "fidelity" else "enter.weight"])
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)
    assert not torch.equal(*ends)


@pytest.mark.slow
def test_both_networks_by_one_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_, "SIZES", SIZES)
    steps = ["--fidelity-steps", "2", "--refiner-steps", "1"]
    all_.main(["--pictures", str(folder), "--out", str(tmp_path), "--device", "cpu", *steps])
    assert [checkpoint(tmp_path / kind)["step"] for kind in ("fidelity", "refiner")] == [2, 1]


def test_a_missing_file_is_said_before_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures.npz").touch()
    large = ["--large", str(tmp_path / "large.pt")]
    with pytest.raises(SystemExit):
        all_.main(["--pictures", str(tmp_path / "pictures.npz"), *large, "--out", str(tmp_path / "out")])
    assert "there is no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_new_rate_counts_for_a_resumed_run(folder: Path, tmp_path: Path) -> None:
    for steps, lr in (("2", "1e-3"), ("4", "5e-4")):
        arguments = ["--pictures", str(folder), "--out", str(tmp_path / "run"), "--steps", steps, "--lr", lr, *SIZES]
        fidelity.main(arguments)
    expected = 5e-4 * run.rate(3, 4)
    assert checkpoint(tmp_path / "run")["optimizers"][0]["param_groups"][0]["lr"] == pytest.approx(expected)


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


def test_a_log_line_has_losses_and_a_validation(folder: Path, tmp_path: Path) -> None:
    train_fidelity(folder, tmp_path / "run", steps=3)
    (line,) = log(tmp_path / "run")
    assert line.keys() >= {"step", "loss", "lr", "psnr_clean", "psnr_degraded", "niqe"}
    assert 5 < line["psnr_degraded"] < 60


def test_the_loss_sees_colour_that_luma_hides() -> None:
    """Chroma and luma errors of the same size in RGB's mean square; the eye's luma has none of the first."""
    target = torch.full((1, 3, 32, 32), 0.5)
    coloured = target + 0.02 * torch.tensor([1.0, -0.299 / 0.587, 0.0])[None, :, None, None]
    grey = target + (coloured - target).square().mean().sqrt()
    assert fidelity.loss_of(coloured, target) - (coloured - target).abs().mean() > 0.01
    assert colour.chroma(grey - target).abs().max() < 1e-6
    torch.testing.assert_close(colour.chroma(coloured - target), coloured - target)


def test_the_loss_sees_a_mean_that_moves_under_noise() -> None:
    noise = 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noise -= torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(noise, 16), scale_factor=16)
    target = torch.full_like(noise, 0.5)
    moved = fidelity.loss_of(target + noise + 0.02, target) - fidelity.loss_of(target + noise, target)
    assert moved > 0.02, "which L1 alone hardly notices"


def test_what_is_whiter_than_white_is_no_error() -> None:
    for end, beyond in ((1.0, 1.3), (0.0, -0.3)):
        target = torch.full((1, 3, 16, 16), end)
        assert fidelity.loss_of(torch.full_like(target, beyond), target) == 0
        assert fidelity.loss_of(torch.full_like(target, 0.6), target) > 0.3


@pytest.fixture
def coloured() -> network.Compact:
    """An untrained network with its path; its other weights are noise."""
    torch.manual_seed(3)
    net = network.Compact(features=16, depth=4)
    network.initialise(net)
    colour.lay(net, colour.last_channels(net))
    return net


def end_of_path(net: network.Compact, image: torch.Tensor) -> torch.Tensor:
    rooms = colour.find(net)
    assert rooms is not None
    with torch.no_grad():
        for layer in list(net.body)[:-1]:
            image = layer(image)
    return image[:, rooms[-1]]


def test_the_path_carries_how_colour_changes(coloured: network.Compact) -> None:
    image = torch.rand(2, 3, 9, 12)
    found = end_of_path(coloured, image)
    differences = image[:, [0, 2]] - image[:, 1:2]
    along_x, along_y = torch.zeros(2, 2, 9, 12), torch.zeros(2, 2, 9, 12)
    along_x[..., 1:] = differences[..., 1:] - differences[..., :-1]
    along_y[..., 1:, :] = differences[..., 1:, :] - differences[..., :-1, :]
    before = torch.cat([along_x, along_y], 1)
    after = torch.zeros_like(before)
    after[:, :2, :, :-1] = along_x[..., 1:]
    after[:, 2:, :-1] = along_y[..., 1:, :]
    torch.testing.assert_close(found, torch.cat([before, after], 1), atol=1e-5, rtol=0)


def test_the_path_is_empty_on_grey_and_on_flat_ground_up_to_the_border(coloured: network.Compact) -> None:
    grey = torch.rand(1, 1, 10, 10).expand(1, 3, 10, 10)
    flat = torch.tensor([0.9, 0.1, 0.4])[None, :, None, None].expand(1, 3, 10, 10)
    for image in (grey, flat):
        assert end_of_path(coloured, image).abs().max() < 1e-6


def test_the_path_is_still_there_after_training_and_in_the_file(
    folder: Path, tmp_path: Path, coloured: network.Compact
) -> None:
    state = train_fidelity(folder, tmp_path / "run", steps=3)
    trained = network.Compact(features=16, depth=3)
    trained.load_state_dict({key: tensor.half().float() for key, tensor in state["params_ema"].items()})
    rooms = colour.find(trained)
    assert rooms is not None and [len(room) for room in rooms] == [5, 8, 4, 8]
    grey = torch.rand(1, 1, 10, 10).expand(1, 3, 10, 10)
    assert end_of_path(trained, grey).abs().max() < 1e-6


def test_a_trained_network_gets_a_path_and_smooth_colour(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, that is, like one whose channels repeat each other, and whose chroma is nearest-neighbour."""
    monkeypatch.setattr(colour, "MEASURED", 16)
    torch.manual_seed(4)
    net = network.Compact(features=32, depth=4)
    network.initialise(net)
    with torch.no_grad():
        for layer in net.body:
            if isinstance(layer, torch.nn.Conv2d) and layer.in_channels == 32:
                layer.weight[:, 16:] *= 1e-3
    state = {"params_ema": net.state_dict(), "architecture": net.architecture, "step": 7}
    torch.save(state, tmp_path / "plain.pt")
    assert colour.find(net) is None

    def main(start: str, out: str) -> network.Compact:
        paths = ["--start", str(tmp_path / start), "--out", str(tmp_path / out)]
        colour.main(["--pictures", str(folder), "--pairs", "24", *paths])
        written = torch.load(tmp_path / out, weights_only=True)
        assert written["step"] == 7
        given = network.Compact(features=32, depth=4)
        given.load_state_dict(written["params_ema"])
        return given

    given = main("plain.pt", "start.pt")
    rooms = colour.find(given)
    assert rooms is not None
    ramp = torch.linspace(0, 1, 24)[None, None, None].expand(1, 1, 24, 24)
    image = torch.cat([ramp, 1 - ramp, torch.full_like(ramp, 0.5)], 1)
    with torch.no_grad():
        mesh = [_mesh(colour.chroma(each(image))) for each in (net, given)]
        grey = given(ramp.expand(1, 3, 24, 24))
    assert mesh[0] > 3 and mesh[1] < 1.2, mesh
    assert (grey.amax(1) - grey.amin(1)).max() < 1e-5, "chroma comes from the path alone"

    again = main("start.pt", "again.pt")
    assert colour.find(again) == rooms
    for name, value in given.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_the_last_layers_chroma_becomes_the_one_of_least_squares_and_its_luma_stays() -> None:
    torch.manual_seed(6)
    net, better = network.Compact(features=16, depth=4), network.Compact(features=16, depth=4)
    network.initialise(net)
    colour.lay(net, colour.last_channels(net))
    rooms = colour.find(net)
    assert rooms is not None
    better.load_state_dict(net.state_dict())
    lr = torch.rand(6, 3, 24, 24)
    luma = torch.tensor(colour.LUMA)[None, :, None, None]
    with torch.no_grad():
        drawn = 0.1 * torch.randn(48, 8, 9)
        for which, sums in enumerate(colour._straight().float()):  # a straight ramp must become a straight ramp
            both = drawn[:, [which, which + 4]]
            drawn[:, [which, which + 4]] += ((sums - both.sum((1, 2))) / 18)[:, None, None]
        better.body[-1].weight[:, rooms[-1]] += drawn.reshape(48, 8, 3, 3)  # type: ignore[index, operator, union-attr]
        before, nearest = net(lr), torch.nn.functional.interpolate(lr, scale_factor=4)
        # Of what `better` adds, what comes from the path.
        wanted = nearest + better(lr) - before
        fit = colour.Fit(net, rooms[-1])
        fit.add(lr, wanted)
        fit.apply()
        after = net(lr)
    torch.testing.assert_close((after * luma).sum(1), (before * luma).sum(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(colour.chroma(after), colour.chroma(wanted), atol=1e-3, rtol=0)


def test_the_bundled_network_leaves_alone_what_must_not_change() -> None:
    net = network.load(FOLDER / "bundled" / "fidelity-x4.safetensors")
    assert colour.find(net) is not None

    def levels(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return net(image).clamp(0, 1).mul(255).round()

    assert levels(torch.ones(1, 3, 48, 55)).min() == 255
    assert levels(torch.zeros(1, 3, 24, 24)).max() == 0
    for period in (16, 32):
        wave = (torch.arange(64) % period * 2 / period - 1).abs()[:, None].expand(64, 64)
        for ramp in (wave, wave.T):
            image = ramp.mul(255).round().div(255).expand(1, 3, 64, 64)
            result = levels(image)
            assert (result.mean() - 255 * image.mean()).abs() < 1
            assert (result.amax(1) - result.amin(1)).max() <= 1
    coarse = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    assert _mesh(colour.chroma(levels(image))) < 1.1


def _mesh(image: torch.Tensor) -> float:
    """Mean step at the borders of source pixels, of the mean of the other steps."""
    steps = image.diff(dim=3).abs().mean((0, 1, 2))[4:-4]
    at_borders = torch.arange(4, 4 + len(steps)) % 4 == 3
    return float(steps[at_borders].mean() / steps[~at_borders].mean())


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"params": {"conv_first.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(SystemExit, match="not an SRVGGNetCompact"):
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
