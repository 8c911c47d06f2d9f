"""The training pairs: numbered, a function of the seed, aligned, resumable at any batch."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from training import cpu, degrade, plain, synthetic
from training.dataset import HR_SIZE, LR_SIZE, Batch, Mix, Pixels
from training.window import window_at

MIX = Mix(clean=0.2, light=0.2, recompressed=0.2, screenshot=0.2)


def scene(seed: int, h: int = 288, w: int = 320) -> Pixels:
    """A picture with edges, gradients and grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 16, w // 16, 3), np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BILINEAR), np.int16)
    return np.asarray(np.clip(large + rng.integers(-12, 13, (h, w, 3)), 0, 255), np.uint8)


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "WINDOW", 12)


@pytest.mark.parametrize(
    "damage", [degrade.clean, degrade.light, degrade.recompressed, degrade.screenshot, degrade.second_order]
)
def test_damage_is_a_function_of_the_seed(damage: degrade.Damage) -> None:
    hr = scene(0, 128, 96)
    made = [damage(hr, np.random.default_rng(seed)) for seed in range(12)]
    for seed, lr in enumerate(made):
        assert lr.shape == (32, 24, 3) and lr.dtype == np.uint8
        assert np.array_equal(lr, damage(hr, np.random.default_rng(seed)))
    different = len({lr.tobytes() for lr in made})
    assert different == 1 if damage is degrade.clean else different > 4


@pytest.mark.parametrize("damage", [degrade.light, degrade.recompressed, degrade.screenshot, degrade.second_order])
def test_damage_leaves_the_brightness_and_the_place_where_they_were(damage: degrade.Damage) -> None:
    hr = scene(0)
    mean = np.mean([damage(hr, np.random.default_rng(seed)) for seed in range(12)], axis=0)
    assert abs(float(mean.mean() - hr.mean())) < 6
    # Beside every shift by one pixel, the average of many looks most like the picture where it is.
    clean = degrade.clean(hr).astype(float)
    errors = {
        (y, x): np.square(np.roll(mean, (y, x), (0, 1)) - clean)[2:-2, 2:-2].mean()
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    assert min(errors, key=errors.__getitem__) == (0, 0)


def test_kinds_of_damage_come_as_often_as_the_mix_says() -> None:
    mix = Mix(clean=0.4, light=0.1, recompressed=0.1, screenshot=0.1)
    chosen = [degrade.choose(mix, np.random.default_rng(seed)) for seed in range(1000)]
    shares = {kind.__name__: chosen.count(kind) / 1000 for kind in set(chosen)}
    expected = {"clean": 0.4, "light": 0.1, "recompressed": 0.1, "screenshot": 0.1, "second_order": 0.3}
    assert shares == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("shares", [(0.6, 0.5), (-0.1, 0.2)])
def test_shares_that_cannot_be_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(SystemExit, match="shares must not be negative"):
        Mix(*shares)


def test_a_pair_depends_on_its_number_alone() -> None:
    pictures = [scene(0), scene(1)]
    here, there = cpu.Pairs(pictures, MIX, 7), cpu.Pairs(pictures, MIX, 7)
    there[3]
    for number in (8, 9):
        (lr, hr, _), (lr_again, hr_again, _) = here[number], there[number]
        assert np.array_equal(lr, lr_again) and np.array_equal(hr, hr_again)
        assert lr.shape == (LR_SIZE, LR_SIZE, 3) and hr.shape == (HR_SIZE, HR_SIZE, 3)


def test_a_picture_smaller_than_a_crop_is_enlarged() -> None:
    cut = cpu.crop(scene(0, 64, 96), np.random.default_rng(0))
    assert cut.shape == (HR_SIZE, HR_SIZE, 3)


@pytest.mark.parametrize("step", [1, 3, 9])
@pytest.mark.usefixtures("small_window")
def test_a_resumed_stream_gives_the_batches_of_an_unbroken_one(step: int) -> None:
    def stream(first: int, number: int) -> list[Batch]:
        made = cpu.batches(
            [scene(0), scene(1)], MIX, seed=3, step=first, batch=4, lr_crop=16, fresh=2, workers=0, teacher=inverted
        )
        return list(islice(made, number))

    unbroken, resumed = stream(0, step + 2), stream(step, 2)
    for before, again in zip(unbroken[step:], resumed, strict=True):
        for part, part_again in zip(before, again, strict=True):
            assert torch.equal(part, part_again)
    lr, hr, target = unbroken[0]
    assert lr.shape == (4, 3, 16, 16)
    assert hr.shape == target.shape == (4, 3, 64, 64)


def inverted(lr: torch.Tensor, hr: torch.Tensor, damaged: bool) -> torch.Tensor:
    return 1 - lr.repeat_interleave(4, 2).repeat_interleave(4, 3) if damaged else hr


@pytest.mark.usefixtures("small_window")
def test_a_teacher_is_told_which_pairs_are_damaged() -> None:
    def batch(mix: Mix) -> Batch:
        options = {"batch": 4, "lr_crop": 16, "fresh": 2, "workers": 0}
        return next(cpu.batches([scene(0)], mix, 0, 0, teacher=inverted, **options))

    mild, damaged = batch(Mix(clean=0.5, light=0.5)), batch(Mix(clean=0, light=0))
    assert torch.equal(mild.target, mild.hr)
    assert torch.allclose(damaged.target[..., ::4, ::4], 1 - damaged.lr, atol=1e-6)


def test_the_window_slides_over_the_stream() -> None:
    assert window_at(0, 2, 5) == [0, 1, 2, 3, 4]
    for step in range(20):
        live = window_at(step, 2, 5)
        assert sorted(live) == list(range(2 * step, 2 * step + 5))
        moved = [new for old, new in zip(live, window_at(step + 1, 2, 5), strict=True) if old != new]
        assert len(moved) == 2


def test_low_and_high_resolution_stay_aligned_through_turns_and_flips() -> None:
    hr = scene(0, HR_SIZE, HR_SIZE)
    lr = hr[::4, ::4]
    for seed in range(8):
        small, large = cpu._vary([lr, hr], 16, np.random.default_rng(seed))
        # A turned picture's samples lie at another corner of their 4×4 cells, so each must be somewhere in its own.
        cells = large.reshape(16, 4, 16, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
        assert (cells == small[:, :, None]).all(axis=-1).any(axis=-1).all()


@pytest.mark.parametrize("number", range(len(synthetic.KINDS)))
def test_a_drawn_page_is_a_function_of_seed_and_number(number: int) -> None:
    page = synthetic.Pages(seed=1)[number]
    assert page.shape == (synthetic.SIDE, synthetic.SIDE, 3) and page.dtype == np.uint8
    assert np.array_equal(page, synthetic.Pages(seed=1)[number])
    assert not np.array_equal(page, synthetic.Pages(seed=2)[number])
    assert len(np.unique(page)) > 8, "an empty page teaches nothing"


def test_drawn_targets_come_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Black:
        def __init__(self, seed: int) -> None: ...

        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> Pixels:
            return np.zeros((HR_SIZE, HR_SIZE, 3), np.uint8)

    monkeypatch.setattr(cpu, "Pages", Black)
    pairs = cpu.Pairs([scene(0)], Mix(clean=1, light=0, synthetic=0.3), seed=0)
    black = sum(not pairs[number][1].any() for number in range(100))
    assert 20 <= black <= 40


def test_plain_pairs_are_a_function_of_the_seed_and_keep_every_mean() -> None:
    flat = 0
    for seed in range(60):
        lr, hr = plain.pair(np.random.default_rng(seed))
        lr_again, hr_again = plain.pair(np.random.default_rng(seed))
        assert np.array_equal(lr, lr_again) and np.array_equal(hr, hr_again)
        assert lr.shape == (LR_SIZE, LR_SIZE, 3) and hr.shape == (HR_SIZE, HR_SIZE, 3)
        mean = hr.reshape(LR_SIZE, 4, LR_SIZE, 4, 3).mean((1, 3))
        assert np.abs(mean - lr).max() <= 1
        flat += int(np.ptp(hr, axis=(0, 1)).max() == 0)
    assert 12 < flat < 36


def test_ramps_are_soft_and_go_every_way() -> None:
    slopes = []
    for seed in range(40):
        _, hr = plain.ramp(np.random.default_rng(seed))
        steps = [np.abs(np.diff(hr.astype(int), axis=axis)) for axis in (0, 1)]
        assert max(step.max() for step in steps) <= 255 / 12 + 2, "half of the shortest period is twelve pixels"
        slopes.append([step.mean() > 0.05 for step in steps])
    assert [True, False] in slopes and [False, True] in slopes and [True, True] in slopes


def test_the_mix_says_how_many_pairs_are_plain_and_how_many_grey() -> None:
    pictures = [scene(0), scene(1)]
    stream = cpu.Pairs(pictures, Mix(clean=1, light=0, plain=0.3, grey=0.5), 1)
    pairs = [stream[number][:2] for number in range(120)]
    grey = sum(bool((hr == hr[..., :1]).all()) for _, hr in pairs)
    assert all(np.array_equal(lr[..., 0], lr[..., 2]) for lr, hr in pairs if (hr == hr[..., :1]).all())
    assert 40 < grey < 95
    with pytest.raises(SystemExit, match="shares must not be negative"):
        Mix(clean=1, light=0, plain=1.2)


def test_a_grey_picture_is_its_luma() -> None:
    picture = scene(0, 8, 8)
    grey = plain.without_colour(picture)
    assert np.abs(grey[..., 0].astype(int) - np.asarray(Image.fromarray(picture).convert("L"))).max() <= 1
    assert (grey == grey[..., :1]).all()
