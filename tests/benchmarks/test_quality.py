"""The quality benchmark: measures have known values, sets are deterministic, checks report their requirements."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import measures, ocr, pages, quality, sets
from benchmarks.checks import LADDER, checks, ladder, summary
from benchmarks.ours import Ours
from server.models.basicsr_shim import SRVGGNetCompact
from tests.paths import PHOTO, SHARED
from training.dataset import Pixels

TEST_PICTURES = SHARED / "images" / "test"
needs_tesseract = pytest.mark.skipif(ocr.missing() is not None, reason=str(ocr.missing()))


def waves(h: int, w: int, phase: float = 0.0) -> Pixels:
    """Smooth enough to survive being reduced to a quarter, rough enough for every statistic."""
    y, x = np.mgrid[:h, :w]
    bands = [np.sin((x * a + y * b) / 9 + phase) for a, b in ((1, 0.3), (0.4, 1), (0.8, -0.7))]
    grain = np.random.default_rng(0).normal(0, 2, (h, w, 3))
    return np.asarray(np.clip(np.stack(bands, 2) * 60 + 128 + grain, 0, 255), np.uint8)


def repeated(pixels: Pixels) -> Pixels:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


# --- measures -------------------------------------------------------------------------------------------------------


def test_psnr_of_each_channel_is_that_of_a_known_error() -> None:
    truth = np.full((32, 32, 3), 100, np.uint8)
    found = measures.psnr(truth + np.uint8(10), truth)
    assert found["psnr_y"] == pytest.approx(20 * np.log10(255 / 10))
    assert found["psnr_rgb"] == pytest.approx(20 * np.log10(255 / 10))
    assert found["psnr_cb"] == found["psnr_cr"] == measures.MOST_DB  # grey became another grey


def test_an_error_of_colour_alone_is_seen_in_colour_alone() -> None:
    truth = np.full((32, 32, 3), 120, np.uint8)
    wrong = truth.copy()
    wrong[..., 0] += 20
    wrong[..., 1] -= 10  # 0.299 · 20 is nearly 0.587 · 10
    found = measures.psnr(wrong, truth)
    assert found["psnr_y"] > 60 and found["psnr_cr"] < 26


def test_the_border_is_left_out() -> None:
    truth = waves(40, 40)
    wrong = truth.copy()
    wrong[:4], wrong[:, :4], wrong[-4:], wrong[:, -4:] = 0, 0, 0, 0
    assert measures.psnr(wrong, truth)["psnr_y"] == measures.MOST_DB


def test_repeated_pixels_have_a_large_mesh_and_smooth_ones_about_one() -> None:
    source = waves(40, 44)
    smooth, mesh = (measures.mesh(make(source)) for make in (sets.bicubic, repeated))
    for channel in ("mesh_y", "mesh_cb", "mesh_cr"):
        ratio, large = smooth[channel], mesh[channel]
        assert ratio is not None and 0.8 < ratio < 1.4
        assert large is not None and large > 30


def test_a_mesh_in_colour_alone_is_seen_in_colour_alone() -> None:
    """As a network has it that was trained on luma: colours of source pixels are repeated."""
    source = waves(40, 44)
    smooth = np.asarray(Image.fromarray(sets.bicubic(source)).convert("YCbCr")).copy()
    smooth[..., 1:] = np.asarray(Image.fromarray(repeated(source)).convert("YCbCr"))[..., 1:]
    found = measures.mesh(np.asarray(Image.fromarray(smooth, "YCbCr").convert("RGB")))
    assert found["mesh_y"] is not None and found["mesh_y"] < 1.6
    assert found["mesh_cb"] is not None and found["mesh_cb"] > 5


@pytest.mark.skipif(not (TEST_PICTURES / "Kodak24").is_dir(), reason="needs the Kodak pictures")
def test_bicubic_photographs_have_a_mesh_of_about_one() -> None:
    ratios = [measures.mesh(sets.bicubic(pair.lr)) for pair in sets.pairs("clean", SHARED / "images", 4, 240)]
    for channel in ("mesh_y", "mesh_cb", "mesh_cr"):
        assert 1.0 < np.mean([each[channel] for each in ratios if each[channel] is not None]) < 1.3


def test_grey_has_no_mesh_in_its_colours_and_flat_has_none_at_all() -> None:
    grey = measures.mesh(waves(40, 40)[..., :1].repeat(3, axis=2))
    assert grey["mesh_y"] is not None and grey["mesh_cb"] is None and grey["mesh_cr"] is None
    assert set(measures.mesh(np.full((40, 40, 3), 9, np.uint8)).values()) == {None}


def test_the_drift_of_a_shifted_picture_is_the_shift() -> None:
    enlarged = np.clip(waves(96, 96), 20, 230)
    moved = enlarged.astype(int) + (3, -6, 0)
    found = measures.drift(moved.astype(np.uint8), enlarged)
    assert found["drift"] == pytest.approx(3) and found["drift_local"] == pytest.approx(6, abs=0.01)


def test_a_blotch_is_local_drift_and_fine_grain_is_none() -> None:
    enlarged = np.full((256, 256, 3), 100, np.uint8)
    blotched, grainy = enlarged.copy(), enlarged.copy()
    blotched[100:164, 100:164, 2] += 20
    grainy[::2, ::2] += 8
    grainy[1::2, 1::2] -= 8
    assert measures.drift(blotched, enlarged)["drift_local"] > 15
    assert measures.drift(grainy, enlarged)["drift_local"] < 0.5
    assert measures.drift(enlarged, enlarged) == {"drift": 0.0, "drift_local": 0.0}


def test_fine_energy_counts_what_lies_within_source_pixels_and_nothing_else() -> None:
    assert measures.fine(repeated(waves(12, 12))) == 0
    inside = np.zeros((16, 16, 3))
    inside[::2], inside[1::2] = 5, -5
    assert measures.fine(inside) == pytest.approx(5)


def test_niqe_prefers_detail_to_blur_and_has_nothing_to_say_of_little() -> None:
    sharp = np.asarray(Image.open(PHOTO).convert("RGB"))
    sharp = sharp[:480, :480] if min(sharp.shape[:2]) >= 480 else np.asarray(Image.fromarray(sharp).resize((480, 480)))
    blurred = sets.bicubic(sets.matlab_resize(sharp, 1 / 4))
    before, after = measures.niqe(blurred), measures.niqe(sharp)
    assert before is not None and after is not None and after < before
    assert measures.niqe(sharp[:200, :200]) is None


def test_haarpsi_is_one_of_equals_and_less_of_others() -> None:
    truth = waves(64, 64)
    same, other = measures.haarpsi(truth, truth), measures.haarpsi(sets.bicubic(truth[::4, ::4]), truth)
    assert same is not None and other is not None and same == pytest.approx(1, abs=1e-5) and other < 0.95


# --- letters --------------------------------------------------------------------------------------------------------


def plain_distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@given(st.text("abc ", max_size=12), st.text("abc ", max_size=12))
def test_the_distance_is_levenshteins(one: str, other: str) -> None:
    assert ocr.distance(one, other) == plain_distance(one, other)


@pytest.mark.parametrize(
    ("found", "wanted", "share"),
    [
        ("Deinterlace", "Deinterlace", 1.0),
        ("Dointorloco", "Deinterlace", 1 - 4 / 11),
        (" a\n b ", "a b", 1.0),
        ("", "abcd", 0.0),
        ("far more than was there", "ab", 0.0),
        ("", "", 1.0),
    ],
)
def test_the_share_of_characters_that_are_right(found: str, wanted: str, share: float) -> None:
    assert ocr.likeness(found, wanted) == pytest.approx(share)


@needs_tesseract
@pytest.mark.parametrize("theme", pages.THEMES)
def test_clear_letters_are_read_in_every_theme(theme: tuple[pages.Colour, pages.Colour]) -> None:
    pen = pages.Pen((420, 90), theme[0])
    for top in (6, 34, 62):
        pen.text((8, top), pages.words(np.random.default_rng(top), 8), theme[1], pages.face("DejaVuSans.ttf"), 16)
    page = pen.page()
    assert ocr.accuracy(sets.bicubic(page.pixels), page.lines, 4) > 0.97


@needs_tesseract
def test_garbled_letters_are_read_worse() -> None:
    reading = next(sets.readings("rendered", Path("none"), 1))
    clear = sets.bicubic(reading.source)
    blurred = sets.bicubic(sets.matlab_resize(reading.source, 0.4))
    blurred = np.asarray(Image.fromarray(blurred).resize(clear.shape[1::-1], Image.Resampling.BICUBIC))
    found = quality.measure_reading({"clear": clear, "blurred": blurred}, reading)
    assert found["clear"] > 0.95 and found["blurred"] < found["clear"] - 0.2


@needs_tesseract
def test_where_no_text_is_known_that_of_the_original_stands_in() -> None:
    page = pages.paragraphs(np.random.default_rng(3), (480, 160), text_size=16)
    half = np.asarray(Image.fromarray(page.pixels).resize((240, 80), Image.Resampling.LANCZOS))
    twice = np.asarray(Image.fromarray(page.pixels).resize((960, 320), Image.Resampling.LANCZOS))
    reading = sets.Reading("page", half, (), page.pixels)
    found = quality.measure_reading({"the original": twice, "nothing": np.full_like(twice, 200)}, reading)
    assert found == {"the original": 1.0, "nothing": 0.0}


@pytest.mark.parametrize("group", [each for each in sets.LETTERS if each != "real screens"])
def test_letters_are_the_same_each_time_and_every_line_stands_in_its_picture(group: str) -> None:
    first, again = (list(sets.readings(group, Path("none"), 3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.source, other.source) and one.lines == other.lines
        h, w = one.source.shape[:2]
        assert sum(len(line.text) for line in one.lines) > 20
        assert all(0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h for x0, y0, x1, y1 in (line.box for line in one.lines))


# --- sets -----------------------------------------------------------------------------------------------------------


def test_degraded_pairs_never_change() -> None:
    pictures = [waves(101, 70), waves(48, 48)]
    first, again = sets.degraded_pairs(pictures), sets.degraded_pairs(pictures)
    assert [(lr.shape, hr.shape) for lr, hr in first] == [((25, 17, 3), (100, 68, 3)), ((12, 12, 3), (48, 48, 3))]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


def test_a_picture_of_the_web_is_smaller_and_worse_the_lower_its_quality() -> None:
    truth = waves(160, 120)
    clean = np.asarray(Image.fromarray(truth).resize((30, 40), Image.Resampling.LANCZOS))
    errors = [measures.rms(sets.web_quarter(truth, quality), clean) for quality in (95, 60, 20)]
    assert errors == sorted(errors) and sets.web_quarter(truth, 80).shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, []), (1, [0]), (3, [0, 3, 6]), (10, [*range(10)]), (99, [*range(10)])]
)
def test_few_are_spread_over_all(count: int, wanted: list[int]) -> None:
    assert sets.spread(range(10), count) == wanted


@pytest.mark.skipif(not (SHARED / "images" / "train").is_dir(), reason="needs the shared pictures")
@pytest.mark.parametrize("kind", sets.KINDS)
def test_each_set_has_sources_and_truths_of_four_times_their_size(kind: str) -> None:
    found = list(sets.pairs(kind, SHARED / "images", 3, 160))
    assert len({pair.name for pair in found}) == 3
    assert all(pair.hr.shape == (4 * pair.lr.shape[0], 4 * pair.lr.shape[1], 3) for pair in found)
    assert all(max(pair.hr.shape) <= 160 and pair.hr.std() > 1 for pair in found)


# --- checks ---------------------------------------------------------------------------------------------------------


def good() -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """Figures with which all checks pass."""
    haarpsi = dict(zip(LADDER, (0.60, 0.65, 0.62, 0.61, 0.60), strict=True))
    pictures: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for kind in sets.PHOTOS:
        pictures[kind] = {"bicubic": {}, "general-x4v3": {}} | {row: {} for row in LADDER}
        for k in range(10):
            pictures[kind]["bicubic"][f"{k}"] = {"psnr_y": 25.0}
            pictures[kind]["general-x4v3"][f"{k}"] = {"niqe": 7.0}
            for step, row in enumerate(LADDER):
                mesh = {f"mesh_{channel}": 1.05 for channel in measures.CHANNELS}
                ladder = {"energy": 5.0 + step + k, "distance": 7.0 + step, "niqe": 6.5 - step / 2}
                pictures[kind][row][f"{k}"] = {"psnr_y": 26.5, "drift": 0.05, "haarpsi": haarpsi[row]} | mesh | ladder
    return pictures


LETTERS = {group: {"unasked": {"0": 0.9}, "bicubic": {"0": 0.9}} for group in ("rendered", "screens")}


def failing(change: Callable[[dict[str, dict[str, dict[str, dict[str, float | None]]]]], None]) -> list[str]:
    pictures = good()
    change(pictures)
    return [each.asked for each in checks(pictures, LETTERS) if not each.passed]


def test_figures_with_which_all_holds_pass_every_check() -> None:
    assert failing(lambda pictures: None) == []
    assert len(checks(good(), LETTERS)) == 25


def test_each_check_fails_for_its_own_reason() -> None:
    def one(kind: str, row: str, measure: str, value: float, pictures: int = 10) -> list[str]:
        def change(figures: dict[str, dict[str, dict[str, dict[str, float | None]]]]) -> None:
            for k in range(pictures):
                figures[kind][row][f"{k}"][measure] = value

        return failing(change)

    assert one("web", LADDER[2], "niqe", 5.6) == ["web: NIQE at 0 is less than general-x4v3's by at least 1.5"]
    assert one("clean", LADDER[2], "mesh_cr", 1.2) == ["clean: mesh at 0 at most 1.1 in Y, Cb, Cr"]
    assert one("degraded", LADDER[2], "drift", 0.2) == ["degraded: colour drift at 0 at most 0.1 in the mean"]
    assert one("web", LADDER[4], "haarpsi", 0.66) == ["web: HaarPSI of −1 above those of −2, 0 and +2 (−2, −1, 0, +2)"]
    assert one("clean", LADDER[0], "psnr_y", 25.9) == ["clean: PSNR of Y at −2 at least 1.0 dB above bicubic"]
    risen = "clean: energy rises from −2 to +2 in the means and in 90 % of pictures"
    assert one("clean", LADDER[3], "energy", 1.0, pictures=1) == []  # nine of ten rise
    assert one("clean", LADDER[3], "energy", 1.0, pictures=2) == [risen]
    assert one("web", LADDER[1], "niqe", 9.0) == ["web: NIQE falls from −2 to +2 in the means"]
    assert one("clean", LADDER[3], "niqe", 5.4) == ["clean: NIQE at +1 is less than at 0 by at least 0.2"]
    worse = {group: {"unasked": {"0": 0.89}, "bicubic": {"0": 0.9}} for group in ("rendered", "screens")}
    assert [each.passed for each in checks(good(), worse)].count(False) == 2


def test_what_was_not_measured_is_neither_passed_nor_failed() -> None:
    assert {each.passed for each in checks({}, {})} == {None}
    pictures = good()
    del pictures["web"]["general-x4v3"]
    assert [each.passed for each in checks(pictures, LETTERS)].count(None) == 1


def test_means_are_of_the_pictures_that_have_a_figure() -> None:
    assert summary({"a": {"niqe": 4.0, "x": None}, "b": {"niqe": None}, "c": {"niqe": 5.0}}) == {"niqe": 4.5, "x": None}


def test_the_ladder_needs_all_its_rows() -> None:
    pictures = good()
    del pictures["clean"][LADDER[1]]
    assert set(ladder(pictures)) == {"web", "degraded"}
    assert ladder(pictures)["web"]["energy"] == {"means": [9.5, 10.5, 11.5, 12.5, 13.5], "share": 1.0, "pictures": 10}


# --- the command ----------------------------------------------------------------------------------------------------


def test_y_is_matlabs() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert quality._y(colours).tolist() == [[16, 235, 81, 145, 41]]


def test_psnr_of_a_known_error_by_the_published_protocol() -> None:
    flat = np.full((32, 32, 3), 100, np.uint8)
    off_by_ten = quality.measure_clean([flat], lambda lr: np.full((32, 32, 3), 110, np.uint8))
    # Ten levels of grey are 10 · 219 / 255 levels of Y, 8 or 9 once both are rounded.
    error = int(quality._y(flat + 10)[0, 0]) - int(quality._y(flat)[0, 0])
    assert off_by_ten["psnr_y"] == pytest.approx(20 * np.log10(255 / error))


def test_resamplers_keep_flat_colours_and_smooth_pictures() -> None:
    flat = np.full((16, 12, 3), (10, 200, 90), np.uint8)
    for resample in (sets.bicubic, quality.lanczos):
        assert (resample(flat) == flat[0, 0]).all()
        assert resample(flat).shape == (64, 48, 3)
        figures = quality.measure_clean([waves(98, 131)], resample)  # sides that are no multiples of four
        psnr, ssim = figures["psnr_y"], figures["ssim_y"]
        assert psnr is not None and psnr > 30
        assert ssim is not None and 0.8 < ssim <= 1


def test_ours_goes_through_the_pipeline_and_bare_does_not() -> None:
    ours = Ours("cpu")
    source = waves(24, 20)
    assert np.array_equal(ours(source, model="fidelity-x4"), ours.bare(source, "fidelity-x4"))  # it needs nothing
    other = "realesr-animevideov3"
    job, bare = ours(source, model=other), ours.bare(source, other)
    assert job.shape == bare.shape == (96, 80, 3)
    assert not np.array_equal(job, bare)  # the pipeline holds its colours
    assert measures.rms(job, bare) < 8
    job = ours(source, model="fidelity-x4")
    strict = ours(source, creativity=-2.0)
    again = sets.matlab_resize(strict, 1 / 4)
    assert measures.rms(again, source) < measures.rms(sets.matlab_resize(job, 1 / 4), source)


@pytest.mark.slow
def test_the_whole_command_on_few_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = SRVGGNetCompact(3, 3, 8, 2, 4, "prelu")
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"params": {}, "params_ema": net.state_dict(), "step": 1}, run / "latest.pt")
    colour, grey = Image.fromarray(waves(200, 196)), Image.fromarray(waves(200, 196, 1.0)).convert("L")
    for name in sets.PUBLISHED:
        (tmp_path / "test" / name).mkdir(parents=True)
        (colour if name == "Kodak24" else grey).save(tmp_path / "test" / name / "0.png")

    wanted = ["bicubic", "fidelity-x4", "creativity −2", "Lanczos", "unasked", "run/latest.pt"]
    arguments = ["--pictures", str(tmp_path), "--official", str(tmp_path / "none"), "--count", "all=1"]
    arguments += [part for row in wanted for part in ("--row", row)]
    quality.main([*arguments, "--checkpoint", str(run / "latest.pt"), "--json", str(tmp_path / "figures.json")])

    printed = capsys.readouterr().out
    results = json.loads(printed.splitlines()[-1])
    assert results == json.loads((tmp_path / "figures.json").read_text("utf-8"))
    measured = {"bicubic", "fidelity-x4", "creativity −2", "run/latest.pt"}
    assert set(results["means"]) == set(sets.PHOTOS) and set(results["means"]["web"]) == measured
    assert set(results["clean"]) == set(sets.PUBLISHED)
    assert set(results["clean"]["Set5"]) == {"bicubic", "Lanczos", "fidelity-x4", "run/latest.pt"}
    assert (
        results["degraded"]["bicubic"]["psnr_rgb"]
        == results["pictures"]["degraded"]["bicubic"]["Kodak24/0"]["psnr_rgb"]
    )
    assert measured | {"Lanczos"} == set(results["flat"])
    if ocr.missing() is None:
        assert set(results["letters"]) == {"rendered", "screens", "scanned"}
        assert set(results["letters"]["screens"]) == measured | {"unasked"}
        # The rule knows the page for one with letters, so that what runs unasked is fidelity-x4 held to its source.
        assert results["letters"]["rendered"]["unasked"] == results["letters"]["rendered"]["creativity −2"]
    assert len(results["weights"]["run/latest.pt"]) == 64
    assert "| Lanczos | " in printed and "not measured" in printed
    assert [each["passed"] for each in results["checks"] if "dB" in each["asked"]] != [None]


@pytest.mark.parametrize("wrong", [["--count", "clean"], ["--count", "sharp=3"], ["--crop", "web=x"], ["--row", "x8"]])
def test_what_is_no_count_or_row_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--pictures", "none", "--official", "none", *wrong])
    assert wrong[1].partition("=")[0] in capsys.readouterr().err


@pytest.mark.skipif(not (TEST_PICTURES / "Set5").is_dir(), reason="needs the Set5 pictures")
def test_bicubic_on_set5_is_the_published_figure() -> None:
    figures = quality.measure_clean(sets.load_set(TEST_PICTURES / "Set5"), sets.bicubic)
    assert figures["psnr_y"] == pytest.approx(28.42, abs=0.01)
    assert figures["ssim_y"] == pytest.approx(0.8104, abs=0.0005)
