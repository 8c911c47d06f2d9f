"""Screens, charts and prints are known from photographs, whatever happened to either on its way."""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import content as benchmark
from benchmarks import pages
from server.pipeline.content import LETTERED, kind, measure
from tests.paths import PHOTO, ROOT, SHARED
from training import synthetic

SHARED = SHARED / "images"
FACE = synthetic.fonts()[0]


def photo() -> Image.Image:
    return Image.open(PHOTO).convert("RGB")


@pytest.mark.parametrize("treatment", benchmark.ON_PHOTOGRAPHS)
def test_a_photograph_stays_one_whatever_was_done_to_it(treatment: str) -> None:
    assert kind(np.asarray(benchmark.ON_PHOTOGRAPHS[treatment](photo()))) == "photo"


@pytest.mark.parametrize("treatment", benchmark.ON_TEXT)
@pytest.mark.parametrize("which", pages.KINDS)
def test_screens_and_pages_are_text_whatever_was_done_to_them(which: str, treatment: str) -> None:
    treat = benchmark.ON_TEXT[treatment]
    found = [kind(np.asarray(treat(Image.fromarray(pages.draw(which, number).pixels)))) for number in range(200, 204)]
    assert found.count("text") >= 3, found


@pytest.mark.parametrize("treatment", benchmark.ON_TEXT)
def test_a_page_with_a_photograph_in_it_is_text(treatment: str) -> None:
    page = pages.article(np.random.default_rng(5), np.asarray(photo()))
    assert kind(np.asarray(benchmark.ON_TEXT[treatment](Image.fromarray(page.pixels)))) == "text"


@pytest.mark.parametrize("subpixel", [False, True])
@pytest.mark.parametrize("theme", pages.THEMES)
def test_light_and_dark_themes_and_either_way_of_smoothing_are_text(theme: Any, subpixel: bool) -> None:
    pen = pages.Pen((500, 300), theme[0], subpixel=subpixel)
    for top in range(10, 280, 19):
        pen.text((12, top), "the quick brown fox jumps over the lazy dog 0123456789", theme[1], FACE, 13)
    assert kind(pen.page().pixels) == "text"


def test_one_line_cut_out_of_a_screen_is_text() -> None:
    page = pages.draw("prose", 3)
    left, top, right, bottom = page.lines[2].box
    assert kind(page.pixels[top - 3 : bottom + 3, left:right]) == "text"


@pytest.mark.parametrize("draw", [synthetic.line_art, synthetic.dead_leaves])
def test_flat_fills_and_lines_without_words_are_a_drawing(draw: Any) -> None:
    found = [kind(draw(np.random.default_rng(number))) for number in range(4)]
    assert found.count("drawing") >= 3 and "text" not in found


@pytest.mark.parametrize("draw", [synthetic.patterns, synthetic.gradients])
def test_patterns_and_gradients_are_no_text(draw: Any) -> None:
    assert "text" not in [kind(draw(np.random.default_rng(number))) for number in range(4)]


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 3), (3, 2), (1, 5000, 3), (5000, 1, 4), (63, 65, 2), (200, 300, 3)]
)
def test_any_size_and_any_channels_have_an_answer(shape: tuple[int, ...], value: int) -> None:
    for depth in (np.uint8, np.uint16):
        assert kind(np.full(shape, value, depth)) == "photo"
    noise = np.random.default_rng(value).integers(0, 256, shape, np.uint8)
    assert kind(noise) in ("photo", "drawing")


def test_sixteen_bits_grey_and_alpha_answer_as_eight_bits_do() -> None:
    for picture, wanted in ((pages.draw("window", 7).pixels, "text"), (np.asarray(photo()), "photo")):
        h, w = picture.shape[:2]
        opaque = np.full((h, w, 1), 255, np.uint8)
        grey = np.asarray(Image.fromarray(picture).convert("L"))
        forms: list[NDArray[Any]] = [picture, picture.astype(np.uint16) * 257, grey, grey[..., None]]
        forms += [np.concatenate([picture, opaque], 2), np.concatenate([grey[..., None], opaque], 2)]
        assert [kind(each) for each in forms] == [wanted] * len(forms)


@pytest.mark.parametrize("ink", [0, 255])
def test_words_on_a_transparent_ground_are_text(ink: int) -> None:
    mask = np.asarray(
        Image.fromarray(255 - pages.paragraphs(np.random.default_rng(11), text_size=14).pixels).convert("L")
    )
    alpha = mask if mask.mean() < 128 else 255 - mask
    assert kind(np.dstack([np.full((*alpha.shape, 3), ink, np.uint8), alpha])) == "text"


def test_what_transparency_hides_counts_for_nothing() -> None:
    hidden = np.dstack([pages.draw("prose", 1).pixels, np.zeros((480, 640), np.uint8)])
    assert kind(hidden) == "photo"


def test_the_same_samples_always_measure_the_same_and_are_left_alone() -> None:
    picture = np.asarray(photo()).copy()
    before = picture.copy()
    assert measure(picture) == measure(picture)
    assert np.array_equal(picture, before)


def test_a_large_picture_takes_no_longer_than_a_megapixel() -> None:
    """CPU time against that of the same rule on one megapixel, in turn; nothing of it is by the clock."""
    rng = np.random.default_rng(0)
    one, many = (rng.integers(0, 256, (side, side, 3), np.uint8) for side in (1024, 4096))
    ratios = []
    for _ in range(7):
        spent = []
        for picture in (one, many):
            started = time.process_time()
            kind(picture)
            spent.append(time.process_time() - started)
        ratios.append(spent[1] / spent[0])
    assert sorted(ratios)[3] < 3


def test_a_large_screen_is_text_and_a_large_photograph_is_none() -> None:
    screen = np.tile(pages.draw("window", 2).pixels, (4, 4, 1))
    assert kind(screen) == "text" and measure(screen).score > LETTERED
    assert kind(np.asarray(photo().resize((5000, 3400)))) == "photo"


def test_our_own_page_is_text() -> None:
    assert kind(np.asarray(Image.open(ROOT / "docs" / "page.jpg"))) == "text"


@pytest.mark.skipif(not (SHARED / "test" / "Kodak24").is_dir(), reason="needs the shared pictures")
@pytest.mark.parametrize("treatment", ["as it is", "JPEG 75", "half", "grey", "caption"])
def test_of_the_test_photographs_at_most_one_in_fifty_is_called_text(treatment: str) -> None:
    treat = benchmark.ON_PHOTOGRAPHS[treatment]
    paths = [path for path in sorted((SHARED / "test").glob("*/*.png")) if path.stem != "img_013"]
    paths += [path for folder in ("faces", "real_inputs") for path in sorted((SHARED / folder).rglob("*.[jp][pn]g"))]
    found = [kind(np.asarray(treat(Image.open(path).convert("RGB")))) for path in paths]
    assert len(paths) > 50 and found.count("text") <= len(found) / 50


@pytest.mark.skipif(not (SHARED / "train").is_dir(), reason="needs the shared pictures")
def test_the_real_screens_are_text() -> None:
    rows = csv.DictReader((SHARED / "train" / "manifest.csv").read_text("utf-8").splitlines())
    names = [row["file"] for row in rows if row["category"] in ("ui", "text")]
    found = [kind(np.asarray(Image.open(SHARED / "train" / name).convert("RGB"))) for name in names]
    assert len(found) > 30 and found.count("text") >= 0.94 * len(found)


def test_the_benchmark_counts_every_picture_once_a_treatment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test" / "Set5").mkdir(parents=True)
    photo().resize((200, 150)).save(tmp_path / "test" / "Set5" / "0.png")
    benchmark.main(["--pictures", str(tmp_path), "--few", "1", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert f"| **photographs, all** | {len(benchmark.ON_PHOTOGRAPHS)} |" in printed
    assert '"ms_per_megapixel"' in (tmp_path / "found.json").read_text("utf-8")
