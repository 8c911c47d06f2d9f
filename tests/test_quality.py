"""The quality figures are those of the literature: known values, and the whole report on two pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import quality
from server.shim import SRVGGNetCompact
from training.degrade import Pixels

TEST_PICTURES = Path(__file__).parents[2] / "shared" / "images" / "test"


def waves(h: int, w: int, phase: float = 0.0) -> Pixels:
    """Smooth enough to survive being reduced to a quarter, rough enough for every statistic."""
    y, x = np.mgrid[:h, :w]
    bands = [np.sin((x * a + y * b) / 9 + phase) for a, b in ((1, 0.3), (0.4, 1), (0.8, -0.7))]
    grain = np.random.default_rng(0).normal(0, 2, (h, w, 3))
    return np.asarray(np.clip(np.stack(bands, 2) * 60 + 128 + grain, 0, 255), np.uint8)


def test_y_is_matlabs() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert quality._y(colours).tolist() == [[16, 235, 81, 145, 41]]


def test_psnr_of_a_known_error() -> None:
    flat = np.full((32, 32, 3), 100, np.uint8)
    off_by_ten = quality.measure_clean([flat], lambda lr: np.full((32, 32, 3), 110, np.uint8))
    # Ten levels of grey are 10 · 219 / 255 levels of Y, 8 or 9 once both are rounded.
    error = int(quality._y(flat + 10)[0, 0]) - int(quality._y(flat)[0, 0])
    assert off_by_ten["psnr_y"] == pytest.approx(20 * np.log10(255 / error))


def test_resamplers_keep_flat_colours_and_smooth_pictures() -> None:
    flat = np.full((16, 12, 3), (10, 200, 90), np.uint8)
    for resample in (quality.bicubic, quality.lanczos):
        assert (resample(flat) == flat[0, 0]).all()
        assert resample(flat).shape == (64, 48, 3)
        figures = quality.measure_clean([waves(98, 131)], resample)  # sides that are no multiples of four
        assert figures["psnr_y"] > 30
        assert 0.8 < figures["ssim_y"] <= 1


def nearest(pixels: Pixels) -> Pixels:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


def test_a_mesh_is_told_from_smooth_colour() -> None:
    repeated, smooth = (quality.measure_colour([waves(128, 160)], each) for each in (nearest, quality.bicubic))
    for channel in ("y", "cb", "cr"):
        assert repeated[f"mesh_{channel}"] > 100
        assert smooth[f"mesh_{channel}"] < 1.3
    assert smooth["psnr_cb"] > repeated["psnr_cb"] + 1
    grey = waves(64, 64)[..., :1].repeat(3, axis=2)
    assert quality.measure_colour([grey], nearest) == {}


def test_what_must_not_change_is_measured() -> None:
    pictures = [waves(128, 160)]
    right = quality.measure_plain(pictures, nearest)
    assert right == {"ramps": 0, "white": 255, "grey": 0}

    def wrong(pixels: Pixels) -> Pixels:
        result = nearest(pixels).copy()
        result[result > 127] += 2  # of the ramps' upper half; white becomes 1
        result[..., 0, 1] //= 2
        return result

    figures = quality.measure_plain(pictures, wrong)
    assert figures["ramps"] > 0.5 and figures["white"] == 0 and figures["grey"] > 50


def test_the_whole_command_on_two_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = SRVGGNetCompact(3, 3, 8, 2, 4, "prelu")
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"params": {}, "params_ema": net.state_dict(), "step": 1}, run / "latest.pt")
    colour, grey = Image.fromarray(waves(200, 196)), Image.fromarray(waves(200, 196, 1.0)).convert("L")
    for name in quality.SETS:
        (tmp_path / name).mkdir()
        (colour if name == "Kodak24" else grey).save(tmp_path / name / "0.png")

    arguments = ["--pictures", str(tmp_path), "--official", str(tmp_path / "none")]
    rows = ["--only", "fidelity-x4", "--checkpoint", str(run / "latest.pt")]
    quality.main([*arguments, *rows, "--json", str(tmp_path / "figures.json")])

    printed = capsys.readouterr().out
    results = json.loads(printed.splitlines()[-1])
    assert results == json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert set(results["clean"]) == set(quality.SETS)
    assert {"bicubic", "Lanczos", "fidelity-x4", "run/latest.pt"} == set(results["clean"]["Set14"])
    assert set(results["clean"]["Set14"]) == set(results["degraded"])
    assert all(np.isfinite(list(figures.values())).all() for figures in results["degraded"].values())
    assert len(results["weights"]["run/latest.pt"]) == 64
    assert "| Lanczos | " in printed
    assert results["colour"]["bicubic"]["mesh_cb"] < 1.3 and results["plain"]["bicubic"]["white"] == 255
    quality.main([*arguments, "--only"])
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["flat"]) == {"bicubic", "Lanczos"}


def test_degraded_pairs_never_change() -> None:
    pictures = [waves(101, 70), waves(48, 48)]
    first, again = quality.degraded_pairs(pictures), quality.degraded_pairs(pictures)
    assert [(lr.shape, hr.shape) for lr, hr in first] == [((25, 17, 3), (100, 68, 3)), ((12, 12, 3), (48, 48, 3))]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


@pytest.mark.skipif(not (TEST_PICTURES / "Set5").is_dir(), reason="needs the Set5 pictures")
def test_bicubic_on_set5_is_the_published_figure() -> None:
    figures = quality.measure_clean(quality.load_set(TEST_PICTURES / "Set5"), quality.bicubic)
    assert figures["psnr_y"] == pytest.approx(28.42, abs=0.01)
    assert figures["ssim_y"] == pytest.approx(0.8104, abs=0.0005)
