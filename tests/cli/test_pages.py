"""Files of several pages on the command line: comic books and TIFF, page by page into the same kind."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from server.cli.pages import cbz
from server.cli.pages.base import Limits
from server.errors import ResultImpossible, SourceTooLarge, SourceUnreadable
from server.images.read import tiff
from server.images.write.tiff_pages import append_page
from tests.cli.outcome import Run, complaint, lines
from tests.conftest import draw

INFO = b"<ComicInfo><Title>Bo\xc3\xb1</Title></ComicInfo>"


def book(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def opened(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


@pytest.fixture
def comic(tmp_path: Path) -> Path:
    members = {
        "ComicInfo.xml": INFO,
        "ch 1/001.jpg": draw(16, 12, "RGB", "jpeg"),
        "ch 1/002.png": draw(12, 16),
        "ch 1/003.bmp": draw(8, 8, "RGB", "bmp"),
    }
    return book(tmp_path / "comic.cbz", members)


# --- comic books -----------------------------------------------------------------------------------------------------


def test_each_page_of_a_comic_book_keeps_its_name_place_and_format(run: Run, comic: Path) -> None:
    outcome = run("upscale", comic, "-o", "big.cbz", "-s", 2)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("big.cbz  3 pages  ")
    made = contents(Path("big.cbz"))
    assert list(made) == ["ComicInfo.xml", "ch 1/001.jpg", "ch 1/002.png", "ch 1/003.png"]
    assert made.pop("ComicInfo.xml") == INFO
    assert [opened(each) for each in made.values()] == [("JPEG", (32, 24)), ("PNG", (24, 32)), ("PNG", (16, 16))]


def test_all_pages_get_the_format_that_is_named(run: Run, comic: Path, tmp_path: Path) -> None:
    (line,) = lines(run("upscale", tmp_path, "-o", "out", "-s", 1, "-f", "webp", "--json"))
    assert (line["result"], line["pages"], line["model"]) == ("out/comic.cbz", 3, "none")
    made = contents(tmp_path / "out/comic.cbz")
    assert {opened(data)[0] for name, data in made.items() if name != "ComicInfo.xml"} == {"WEBP"}
    assert {name.rsplit(".")[-1] for name in made} == {"xml", "webp"}


def test_a_page_that_fails_is_named_and_no_book_is_left(run: Run, tmp_path: Path) -> None:
    book(tmp_path / "bad.cbz", {"1.png": draw(8, 8), "2.png": draw(8, 8)[:50]})
    words = complaint(run("upscale", "bad.cbz", "-o", "out.cbz", "-s", 1))
    assert words == "bad.cbz: page 2 of 2: the picture file is damaged"
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["bad.cbz"]


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../../b.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "C:a.png", "\\\\host\\a.png"]
)
def test_a_name_that_leads_out_of_the_archive_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    book(tmp_path / "evil.cbz", {"1.png": draw(8, 8), name: draw(8, 8)})
    words = complaint(run("upscale", "evil.cbz", "-o", "out.cbz", "-s", 1))
    assert words.startswith("evil.cbz: the archive has a name that leads out of it: ")
    assert not Path("out.cbz").exists()


@pytest.mark.parametrize("name", ["a..b.png", "..a/b.png", "a/b c.png", "1: x/2.png"[3:]])
def test_other_names_are_taken(name: str) -> None:
    assert not cbz.leaves(name)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("no page is looked at")


def test_what_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    bomb = book(tmp_path / "bomb.cbz", {f"{number}.bmp": bytes(30 << 20) for number in range(5)})
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(SourceTooLarge, match="times its size"):
        cbz.convert(bomb, tmp_path / "out.cbz", Limits(page_bytes=100 << 20, page_pixels=10**8), never)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"page_bytes": 100}, "at most 100 are taken"),
        ({"pages": 3}, "has 4 files"),
        ({"total_bytes": 500}, "unpacks to"),
    ],
)
def test_the_limits_of_an_archive(tmp_path: Path, comic: Path, limits: dict[str, int], words: str) -> None:
    with pytest.raises(SourceTooLarge, match=words):
        cbz.convert(comic, tmp_path / "o.cbz", Limits(**{"page_bytes": 10**6, "page_pixels": 10**6, **limits}), never)


def test_a_size_that_is_a_lie_does_not_unpack_more(tmp_path: Path) -> None:
    """The size in the archive is the most that is unpacked of a member, and its checksum is verified."""
    path = book(tmp_path / "lie.cbz", {"1.bmp": bytes(1 << 20)})
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<I", 1 << 20), data.index(b"PK\1\2"))
    data[at : at + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    with pytest.raises(SourceUnreadable, match="damaged"):
        cbz.convert(path, tmp_path / "o.cbz", Limits(page_bytes=10**6, page_pixels=10**6), never)


def test_what_is_no_archive_or_has_no_pictures_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.cbz").write_text("no archive")
    assert "the archive is damaged" in complaint(run("upscale", "text.cbz", "-o", "out/", "-s", 1))
    book(tmp_path / "empty.cbz", {"a.txt": b"text"})
    words = complaint(run("upscale", "empty.cbz", "-o", "out/", "-s", 1))
    assert words == "empty.cbz: there are no pictures in this archive"


def test_a_comic_book_does_not_become_a_picture(run: Run, comic: Path) -> None:
    words = complaint(run("upscale", comic, "-o", "out.png"), code=2)
    assert words == f"the result of {comic} has pages too: name it out.cbz, or give a folder"


# --- TIFF ------------------------------------------------------------------------------------------------------------


def pages(*sizes: tuple[int, int], deep: bool = False) -> list[pyvips.Image]:
    high = 65535 if deep else 255
    made = []
    for number, (w, h) in enumerate(sizes):
        ramp = np.linspace(0, high, w * h * 3).reshape(h, w, 3) * (number + 1) / len(sizes)
        made.append(pyvips.Image.new_from_array(ramp.astype(np.uint16 if deep else np.uint8)))
    return made


def write(path: Path, sizes: tuple[tuple[int, int], ...]) -> Path:
    images = [Image.fromarray(each.numpy()) for each in pages(*sizes)]
    images[0].save(path, save_all=True, append_images=images[1:], compression="tiff_lzw", dpi=(300, 300))
    return path


def test_each_page_of_a_tiff_has_its_own_size_and_comes_in_order(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "scan.tif", ((16, 12), (10, 20), (7, 5)))
    outcome = run("upscale", source, "-o", "out/", "-s", 2)
    assert outcome.exit_code == 0 and outcome.stdout.startswith("out/scan.tiff  3 pages  ")
    assert outcome.stderr == ""
    for number, size in enumerate(((32, 24), (20, 40), (14, 10))):
        alone = tmp_path / f"{number}.tif"
        Image.fromarray(pages((16, 12), (10, 20), (7, 5))[number].numpy()).save(alone)
        assert run("upscale", alone, "-o", f"{number}.tiff", "-s", 2).exit_code == 0
        page = pyvips.Image.new_from_file("out/scan.tiff", page=number)
        assert (page.width, page.height) == size
        expected = pyvips.Image.new_from_file(f"{number}.tiff")
        assert np.array_equal(page.numpy(), expected.numpy()), "the same as the page on its own"
        assert round(page.xres * 25.4) == 300, "the resolution of each page"


def test_other_programs_read_the_result(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "scan.tif", ((16, 12), (10, 20)))
    assert run("upscale", source, "-o", "out.tiff", "-s", 1).exit_code == 0
    with Image.open("out.tiff") as image:
        assert getattr(image, "n_frames", 1) == 2
        for number, expected in enumerate(pages((16, 12), (10, 20))):
            image.seek(number)
            assert np.array_equal(np.asarray(image), expected.numpy())
            assert image.getexif().get(282) is not None


def test_pages_of_16_bits_stay_so(run: Run, tmp_path: Path) -> None:
    first, second = pages((16, 12), (16, 12), deep=True)
    joined = pyvips.Image.arrayjoin([first, second], across=1).copy(interpretation="rgb16")
    joined.tiffsave("deep.tif", page_height=12)
    assert run("upscale", "deep.tif", "-o", "out.tiff", "-s", 1).exit_code == 0
    for number, expected in enumerate((first, second)):
        page = pyvips.Image.new_from_file("out.tiff", page=number)
        assert page.format == "ushort" and np.array_equal(page.numpy(), expected.numpy())


def test_a_tiff_of_many_pages_of_bigtiff(run: Run, tmp_path: Path) -> None:
    images = pages((16, 12), (16, 12), (16, 12))
    joined = pyvips.Image.arrayjoin(images, across=1).copy(interpretation="srgb")
    joined.tiffsave("big.tif", bigtiff=True, page_height=12)
    assert run("upscale", "big.tif", "-o", "out.tiff", "-s", 1).exit_code == 0
    for number, expected in enumerate(images):
        assert np.array_equal(pyvips.Image.new_from_file("out.tiff", page=number).numpy(), expected.numpy())


def test_the_exif_of_each_page_stays_with_it(run: Run, tmp_path: Path) -> None:
    """Its directory is one of those whose offsets change when files are joined."""
    for number in (1, 2):
        exif = Image.Exif()
        exif[0x8769] = {0x9003: f"2026:01:0{number} 00:00:00"}
        Image.new("RGB", (16, 12)).save(f"{number}.jpg", exif=exif)
        assert run("upscale", f"{number}.jpg", "-o", f"{number}.tiff", "-s", 1).exit_code == 0
        append_page(tmp_path / f"{number}.tiff", tmp_path / "joined.tiff")
    for number in (1, 2):  # each page alone: Pillow reads EXIF's directory of the first page only
        data = (tmp_path / "joined.tiff").read_bytes()
        alone = tiff.one_page(data, tiff.pages(data)[number - 1])
        with Image.open(io.BytesIO(alone)) as image:
            assert image.getexif().get_ifd(0x8769)[0x9003] == f"2026:01:0{number} 00:00:00"


def test_more_than_4_gb_are_refused(tmp_path: Path) -> None:
    page = write(tmp_path / "page.tif", ((8, 8),))
    with (tmp_path / "large.tif").open("wb") as file:
        file.truncate((1 << 32) - 100)  # a hole: it takes no space
    with pytest.raises(ResultImpossible, match="more than 4 GB"):
        append_page(page, tmp_path / "large.tif")


def test_for_another_format_the_first_page_is_taken_and_that_is_told(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "scan.tif", ((16, 12), (10, 20)))
    outcome = run("upscale", source, "-o", "out/", "-f", "png", "-s", 1)
    assert "note: " in outcome.stderr and "page 1 of 2" in outcome.stderr
    assert opened(Path("out/scan.png").read_bytes()) == ("PNG", (16, 12))
