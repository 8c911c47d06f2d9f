"""Unusual and hostile files are read correctly, or refused with a reason. `tests/stress/awkward.py` defines
correctly."""

import csv
import io
import resource
import time
from contextlib import suppress

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from server.errors import BadSource, SourceUnreadable, UpscaleError
from server.images.metadata.exif import ORIENTATION, Exif, Value, serialise
from server.images.read.open import Samples, read_header
from server.pipeline import decode
from tests.paths import SHARED
from tests.pictures import FILES, encoded, scene, to_vips
from tests.stress.awkward import MAX_PIXELS, MAX_SECONDS, Run, judge

COLLECTION = SHARED / "images" / "awkward"
PIXELS_HERE = 600_000
"""Larger files only take longer; the stress program has them."""
UNCONFIRMED = {
    "icc_widegamut/colors_hdr_p3.avif",  # HDR, which the reference does not tone-map
    "hostile/iccp_bomb.png",  # Pillow does not inflate what is not needed to see the picture
    "hostile/png_decompression_dos.png",
    "hostile/ztxt_bomb.png",
    "truncated_corrupt/truncated_end_chunk.png",  # all samples are there
    "truncated_corrupt/small-invalid.jpg",  # likewise, of one pixel
    "truncated_corrupt/unknown_compression_method.png",  # of its profile
}


def collection() -> list[str]:
    if not COLLECTION.exists():
        return []
    with (COLLECTION / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [row["file"] for row in rows if int(row["width"] or 0) * int(row["height"] or 0) < PIXELS_HERE]


@pytest.mark.skipif(not COLLECTION.exists(), reason="the collection of awkward pictures is not on this machine")
@pytest.mark.filterwarnings("ignore")  # the reference has much to say about these
@pytest.mark.parametrize("name", collection())
def test_each_of_the_collection_is_right_or_refused(name: str) -> None:
    started = time.monotonic()
    verdict = judge((COLLECTION / name).read_bytes())
    assert time.monotonic() - started < MAX_SECONDS
    assert verdict.outcome in ("right", "refused") or (verdict.outcome == "unconfirmed" and name in UNCONFIRMED), (
        verdict
    )


@pytest.mark.skipif(not COLLECTION.exists(), reason="the collection of awkward pictures is not on this machine")
@pytest.mark.parametrize(
    "name",
    [
        "hostile/bomb_30000x30000_1bit.png",
        "hostile/header_2147483647.png",
        "hostile/sof_65535x65535.jpg",
        "hostile/65536-uint32-limit.png",
        "hostile/17000x17000.avif",
        "hostile/decompression_bomb.gif",
    ],
)
def test_bombs_cost_neither_time_nor_memory(name: str) -> None:
    data = (COLLECTION / name).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(BadSource):
        read_header(data, MAX_PIXELS)
    assert time.process_time() - started < 0.1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def decoded(data: bytes) -> Samples:
    run = Run(data)
    decode.run(run)  # type: ignore[arg-type]
    return run.samples


def vips(samples: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", suffix: str, **options: object) -> bytes:
    return bytes(to_vips(samples).write_to_buffer(suffix, **options))


def tiff(samples: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def palette() -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(scene(48, 32)).quantize(16)
    image.save(buffer, "PNG", bits=4, transparency=3)
    return buffer.getvalue()


OWN = {
    "jpeg": encoded(scene(), "JPEG", quality=95),
    "progressive jpeg": encoded(scene(), "JPEG", quality=95, progressive=True),
    "grey jpeg": encoded(scene(channels=1), "JPEG", quality=95),
    "turned jpeg": encoded(scene(), "JPEG", quality=95, exif=serialise(Exif({ORIENTATION: Value(3, b"\x08\0")}))),
    "png": encoded(scene(), "PNG"),
    "interlaced png": vips(scene(), ".png", interlace=True),
    "deep png": vips(scene(dtype=np.uint16), ".png"),
    "deep png with alpha": vips(scene(channels=2), ".png"),
    "png of four bits": encoded(scene(channels=1), "PNG", bits=4),
    "png with a palette": palette(),
    "webp": encoded(scene(channels=4), "WEBP", lossless=True),
    "gif": encoded(scene(), "GIF"),
    "bmp": encoded(scene(), "BMP"),
    "bmp with a palette": encoded(scene(channels=1), "BMP"),
    "tiff": tiff(scene(), photometric="rgb"),
    "bigtiff": tiff(scene(), photometric="rgb", bigtiff=True),
    "deep tiff": vips(scene(dtype=np.uint16), ".tiff"),
    "avif": encoded(scene(), "AVIF", quality=95, subsampling="4:4:4"),
    "grey avif": encoded(scene(channels=1), "AVIF", quality=95, subsampling="4:0:0"),
    "heic": (FILES / "turned.heic").read_bytes(),
    "deep heic": (FILES / "deep.heic").read_bytes(),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_each_of_our_own_is_right(name: str) -> None:
    verdict = judge(OWN[name])
    assert verdict.outcome == "right", verdict


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_what_is_left_of_a_file_is_not_taken_for_all_of_it(name: str, share: float) -> None:
    try:
        part = decoded(OWN[name][: int(len(OWN[name]) * share)])
    except SourceUnreadable:
        return
    assert share == 0.9 and np.array_equal(part, decoded(OWN[name]))  # what is missing was not of the picture


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OWN)
def test_damaged_files_break_nothing(name: str) -> None:
    for seed in range(4):
        data = bytearray(OWN[name])
        for place in np.random.default_rng(seed).integers(0, len(data), max(1, len(data) // 50)):
            data[place] ^= 0x55
        judge(bytes(data))  # whatever comes of it, it comes as a verdict


@pytest.mark.parametrize("name", OWN)
def test_one_wrong_byte_is_read_or_refused(name: str) -> None:
    """Single errors, after which the file still looks valid. Most are in headers."""
    data = OWN[name]
    generator = np.random.default_rng(len(data))
    places = [*generator.integers(0, min(len(data), 400), 30), *generator.integers(0, len(data), 10)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, damaged[place] ^ 1 << int(generator.integers(8))])
        started = time.process_time()
        with suppress(UpscaleError):
            decoded(bytes(damaged))
        assert time.process_time() - started < 2


def test_the_table_counts_every_outcome() -> None:
    assert judge(b"This is text").outcome == "refused"
    assert {judge(OWN[name]).outcome for name in ("jpeg", "png")} == {"right"}
    assert pyvips.Image.new_from_buffer(OWN["deep png"], "").format == "ushort"
