"""Files through all of reading and writing, with their metadata. Most are of kinds that users of other programs report.

A file goes all the way in and out, without a network between: decoded, repeated pixel by pixel, dressed, encoded.
"""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from skimage.color import rgb2lab
from tifffile import TiffFile

from server.errors import SourceUnreadable
from server.images.metadata import exif as tags_of
from server.images.metadata import xmp
from server.images.metadata.exif import ORIENTATION, Exif, Value, serialise
from server.images.metadata.icc import ADOBE_RGB, ADOBE_RGB_GAMMA, rgb_profile
from server.images.metadata.metadata import attach_metadata
from server.images.metadata.placement import Placement
from server.images.read.open import open_picture, read_header
from server.images.read.sniff import sniff
from server.images.write.save import save
from server.job.formats import FORMATS
from server.job.job import Params
from server.pipeline import decode
from tests.pictures import FILES, encoded, scene, to_vips
from tests.stress.awkward import Run

MANY = 10**8


def decoded(data: bytes, **options: Any) -> Run:
    run = Run(data, params=Params(scale=1, **options))
    decode.run(run)  # type: ignore[arg-type]
    return run


def refused(data: bytes) -> str:
    """Returns the message, which is the same for the header alone and for the whole file."""
    said = []
    for read in (lambda: read_header(data, MANY), lambda: decoded(data)):
        with pytest.raises(SourceUnreadable) as raised:
            read()
        said.append(raised.value.message)
    assert said[0] == said[1]
    return said[0]


@pytest.fixture
def through(tmp_path: Path) -> Callable[..., Path]:
    """`through(data, format, times=1, **params)`: the result's file."""

    def run(data: bytes, format_: str = "png", times: int = 1, **options: Any) -> Path:
        done = decoded(data, format=format_, **options)
        image = to_vips(done.samples.repeat(times, 0).repeat(times, 1))
        path = tmp_path / f"result{FORMATS[format_].suffix}"
        save(attach_metadata(image, done.metadata, done.params.metadata), path, done.params)
        return path

    return run


def tiff(*pages: tuple[NDArray[Any], dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for samples, how in pages:
            writer.write(samples, **({"photometric": "rgb" if samples.ndim == 3 else "minisblack"} | how))
    return buffer.getvalue()


def with_tag(data: bytes, tag: int, number: int) -> bytes:
    """A little-endian TIFF file with another number of 16 bits in the first directory."""
    start = struct.unpack_from("<I", data, 4)[0]
    changed = bytearray(data)
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<H", changed, place + 8, number)
    return bytes(changed)


# --- TIFF by its magic alone ----------------------------------------------------------------------------------------

PREVIEW: dict[str, Any] = {"subfiletype": 1}


def camera_raw(make: str, *, dng: bool = False) -> bytes:
    """A small preview, and the sensor's samples in a sub-directory."""
    more: list[Any] = [(271, "s", 0, make, True)] + ([(50706, "B", 4, (1, 4, 0, 0), True)] if dng else [])
    sensor = np.arange(300 * 400, dtype=np.uint16).reshape(300, 400)
    return tiff((scene(64, 48), {**PREVIEW, "subifds": 1, "extratags": more}), (sensor, {"photometric": 32803}))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (camera_raw("Maker", dng=True), "Adobe DNG"),
        (with_tag(camera_raw("Maker"), 262, 34892), "TIFF/EP"),
        (camera_raw("NIKON CORPORATION"), "Nikon NEF"),
        (camera_raw("SONY"), "Sony ARW"),
        (camera_raw("nobody knows"), "TIFF/EP"),
        (with_tag(tiff((scene(), {})), 259, 34713), "Nikon NEF"),
        (with_tag(tiff((scene(), {})), 259, 65535), "Pentax PEF"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "Canon"),
        (b"IIRO\x08\0\0\0" + bytes(100), "Olympus ORF"),
        (b"IIU\0\x08\0\0\0" + bytes(100), "Panasonic RW2"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "Fujifilm RAF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100), "Canon CR3"),
    ],
)
def test_camera_raw_is_refused_in_words(data: bytes, kind: str) -> None:
    said = refused(data)
    assert "is a camera raw" in said and kind in said and "send a TIFF, PNG or JPEG" in said


def test_the_preview_in_a_tiff_is_not_taken_for_the_picture() -> None:
    large = scene(96, 64)
    in_chain = tiff((scene(24, 16), PREVIEW), (scene(12, 8), PREVIEW), (large, {}))
    below = tiff((scene(24, 16), {**PREVIEW, "subifds": 1}), (large, {}))
    mask = with_tag(tiff((scene(24, 16), PREVIEW), (large, {})), 254, 4)
    for data in (in_chain, below, mask):
        assert read_header(data, MANY).size == (96, 64)
        assert np.array_equal(decoded(data).samples, large)


def test_a_pyramid_below_the_picture_changes_nothing() -> None:
    large = scene(96, 64)
    data = tiff((large, {"subifds": 2}), (scene(48, 32), PREVIEW), (scene(24, 16), PREVIEW))
    assert np.array_equal(decoded(data).samples, large) and not decoded(data).notes


def test_where_all_are_reduced_the_largest_is_taken() -> None:
    assert read_header(tiff((scene(24, 16), PREVIEW), (scene(96, 64), PREVIEW)), MANY).size == (96, 64)


def test_a_later_page_has_its_own_orientation_and_the_files_author() -> None:
    author = [(315, "s", 0, "Ann", True), (274, "H", 1, 6, True)]
    data = tiff((scene(24, 16), {**PREVIEW, "extratags": author}), (scene(96, 64), {}))
    found = decoded(data).metadata
    assert found.orientation == 1 and found.exif.image[315].data == b"Ann\0"
    data = tiff((scene(24, 16), {**PREVIEW, "extratags": author, "subifds": 1}), (scene(96, 64), {}))
    assert decoded(data).metadata.orientation == 6 and read_header(data, MANY).size == (64, 96)


def test_directories_in_a_circle_end() -> None:
    data = bytearray(tiff((scene(), {})))
    start = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], start)
    assert read_header(bytes(data), MANY).size == (48, 32)


def test_the_page_that_is_taken_is_named() -> None:
    three = tiff(*[(scene(48, 32), {})] * 3)
    assert decoded(three).notes == ["page 1 of 3"]
    assert decoded(tiff((scene(24, 16), PREVIEW), *[(scene(48, 32), {})] * 2)).notes == ["page 1 of 2"]
    assert decoded(tiff((scene(), {}))).notes == []


# --- alpha guessed from the number of channels ----------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[0], [1], [2], [0, 2], [2, 0], [0, 0, 0], []])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_what_says_to_be_alpha_is(extra: list[int], dtype: type[np.generic]) -> None:
    samples = np.concatenate([scene(96, 64, 3, dtype)] + [scene(96, 64, 2, dtype)[..., 1:]] * len(extra), axis=2)
    found = decoded(tiff((samples, {"extrasamples": extra}))).samples
    alpha = 1 in extra or 2 in extra
    assert found.shape[2] == 3 + alpha
    if alpha:
        assert np.array_equal(found[..., 3], samples[..., 3])
    if 1 not in extra:  # else its colours were multiplied with it
        seen = found[..., 3:] > 0 if alpha else np.ones_like(found[..., :1])
        assert np.array_equal(found[..., :3] * seen, samples[..., :3] * seen)


def test_grey_and_cmyk_with_more_channels_are_no_more_transparent() -> None:
    grey = np.concatenate([scene(channels=1)] * 2, axis=2)
    for extra, channels in (([0], 1), ([2], 2)):
        how = {"extrasamples": extra, "planarconfig": "contig", "photometric": "minisblack"}
        assert decoded(tiff((grey, how))).samples.shape[2] == channels
    inks = np.concatenate([scene(channels=4), scene(channels=1)], axis=2)
    for extra, channels in (([0], 3), ([2], 4)):
        how = {"extrasamples": extra, "planarconfig": "contig", "photometric": "separated"}
        assert decoded(tiff((inks, how))).samples.shape[2] == channels


# --- absent and default are one value -------------------------------------------------------------------------------

TURNED = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def says(orientation: int | None, type_: int = 3) -> bytes:
    maker = {0x010F: Value(2, b"Cam\0")}
    number = (
        {}
        if orientation is None
        else {ORIENTATION: Value(type_, struct.pack("<H" if type_ == 3 else "<I", orientation))}
    )
    return serialise(Exif(maker | number))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("stated", "turned"), [(1, False), (3, False), (0, False), (9, False), (8, True), (None, True)]
)
def test_exif_that_says_upright_wins_over_old_xmp(kind: str, stated: int | None, turned: bool) -> None:
    packet: dict[str, Any] = {"xmp": TURNED}
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", TURNED.decode())
        packet = {"pnginfo": info}
    data = encoded(scene(96, 64), kind, exif=says(stated), **packet)
    size = (64, 96) if turned else (96, 64)
    assert read_header(data, MANY).size == size and decoded(data).samples.shape[1::-1] == size
    if kind == "JPEG" and stated in (0, 1, 3, 8, 9):  # of its own reading of XMP Pillow has changed its mind
        with Image.open(io.BytesIO(data)) as image:
            assert (image.getexif().get(ORIENTATION) in (5, 6, 7, 8)) == turned


def test_an_orientation_in_a_wider_number_counts() -> None:
    assert read_header(encoded(scene(96, 64), "JPEG", exif=says(6, type_=4)), MANY).size == (64, 96)


# --- colour told by metadata, not by a profile ----------------------------------------------------------------------


def colour_of(space: int | None, index: bytes | None, **more: Any) -> bytes:
    photo = {} if space is None else {0xA001: Value(3, struct.pack("<H", space))}
    interop = {} if index is None else {1: Value(2, index + b"\0"), 0x1001: Value(4, struct.pack("<I", 48))}
    return serialise(Exif(photo=photo | {0x829A: Value(5, struct.pack("<II", 1, 250))}, interop=interop, **more))


def green(kind: str, block: bytes, **options: Any) -> bytes:
    samples = np.broadcast_to(np.array([60, 200, 60], np.uint8), (32, 32, 3)).copy()
    quality = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(samples, kind, exif=block, **quality, **options)


def middle(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        return image.convert("RGB").getpixel((16, 16))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize(
    ("space", "index", "adobe"),
    [
        (65535, b"R03", True),
        (2, None, True),
        (None, b"R03", True),
        (1, b"R98", False),
        (1, b"R03", False),
        (65535, None, False),
        (None, None, False),
    ],
)
def test_adobe_rgb_is_known_by_exif(
    through: Callable[..., Path], kind: str, space: int | None, index: bytes | None, adobe: bool
) -> None:
    data = green(kind, colour_of(space, index))
    assert (decoded(data).metadata.icc is not None) == adobe
    path = through(data, "png", colour="srgb")
    reference = Image.new("RGB", (1, 1), (60, 200, 60))
    if adobe:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(ADOBE_RGB, gamma=ADOBE_RGB_GAMMA)))
        reference = ImageCms.profileToProfile(reference, profile, ImageCms.createProfile("sRGB"), renderingIntent=1)  # type: ignore[assignment]
    assert np.abs(np.subtract(middle(path), reference.getpixel((0, 0)))).max() <= 2
    if adobe:
        assert np.abs(np.subtract(middle(path), (0, 201, 36))).max() <= 3


def test_the_interoperability_directory_survives(through: Callable[..., Path]) -> None:
    for format_ in ("jpeg", "png", "tiff", "webp", "avif"):
        with Image.open(through(green("JPEG", colour_of(65535, b"R03")), format_, times=2)) as image:
            interop = image.getexif().get_ifd(0xA005)
            assert interop[1].rstrip("\0") == "R03" and interop[0x1001] == 64
            assert image.getexif().get_ifd(0x8769)[0xA001] == 65535 and image.info["icc_profile"]


@pytest.mark.parametrize("format_", ["jpeg", "png", "tiff", "webp", "avif"])
def test_what_became_srgb_says_so(through: Callable[..., Path], format_: str) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description exif:ColorSpace="65535"/></x:xmpmeta>'
    path = through(green("JPEG", colour_of(65535, b"R03"), xmp=packet), format_, colour="srgb")
    with Image.open(path) as image:
        assert image.getexif().get_ifd(0x8769)[0xA001] == 1
        assert image.getexif().get_ifd(0xA005)[1].rstrip("\0") == "R98"
    assert b'exif:ColorSpace="1"' in path.read_bytes()


def test_a_profile_counts_before_exif_and_so_do_the_chunks_of_png() -> None:
    srgb = bytes(pyvips.Operation.call("profile_load", "srgb"))
    assert decoded(green("JPEG", colour_of(65535, b"R03"), icc_profile=srgb)).metadata.icc == srgb
    data = green("PNG", colour_of(65535, b"R03"))
    stated = data[:33] + struct.pack(">I", 1) + b"sRGB\0" + struct.pack(">I", zlib.crc32(b"sRGB\0")) + data[33:]
    assert decoded(stated).metadata.icc is None


def test_primaries_in_the_tags_of_tiff_become_a_profile() -> None:
    numbers = [(318, (0.3127, 0.3290)), (319, (0.64, 0.33, 0.21, 0.71, 0.15, 0.06))]
    rationals = [
        (tag, "2I", len(values), [part for value in values for part in (round(value * 10_000), 10_000)], True)
        for tag, values in numbers
    ]
    found = decoded(tiff((scene(), {"extratags": rationals}))).metadata.icc
    assert found is not None and decoded(tiff((scene(), {}))).metadata.icc is None


# --- XMP and EXIF about the old file --------------------------------------------------------------------------------

HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
)
SPACES = {
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "GImage": "http://ns.google.com/photos/1.0/image/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
}


def packet(attributes: str = "", elements: str = "") -> bytes:
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in SPACES.items())
    text = f'{HEAD}{spaces} {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    return text.encode()


PANORAMA = {
    "FullPanoWidthPixels": 200,
    "FullPanoHeightPixels": 100,
    "CroppedAreaImageWidthPixels": 200,
    "CroppedAreaImageHeightPixels": 80,
    "CroppedAreaLeftPixels": 0,
    "CroppedAreaTopPixels": 10,
}


@pytest.mark.parametrize("prefix", ["GPano", "pano"])
@pytest.mark.parametrize("as_elements", [False, True])
def test_a_panorama_keeps_its_place_in_the_sphere(
    through: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, prefix: str, as_elements: bool
) -> None:
    monkeypatch.setitem(SPACES, prefix, SPACES["GPano"])
    if as_elements:
        block = packet(elements="".join(f"<{prefix}:{name}>{n}</{prefix}:{name}>" for name, n in PANORAMA.items()))
    else:
        block = packet(
            " ".join(f'{prefix}:{name}="{n}"' for name, n in PANORAMA.items()) + ' GPano:PoseHeadingDegrees="45.5"'
        )
    data = encoded(scene(200, 80), "JPEG", xmp=block)
    written = through(data, "jpeg", times=4).read_bytes().decode("latin-1")
    for name, number in PANORAMA.items():
        said = f"<{prefix}:{name}>{4 * number}</" if as_elements else f'{prefix}:{name}="{4 * number}"'
        assert said in written
    assert as_elements or 'GPano:PoseHeadingDegrees="45.5"' in written


POINTERS = {
    "gain map": ('hdrgm:Version="1.0" hdrgm:GainMapMax="2.5"', "", ["gain map (HDR)"], b"hdrgm:"),
    "container": (
        "",
        '<Container:Directory><rdf:Seq><rdf:li><Container:Item Item:Semantic="Primary"/></rdf:li>'
        '<rdf:li><Container:Item Item:Semantic="GainMap" Item:Length="66171"/></rdf:li></rdf:Seq>'
        "</Container:Directory>",
        ["gain map (HDR)"],
        b"Item:Length",
    ),
    "depth": ('GDepth:Format="RangeInverse" GDepth:Near="0.7"', "", ["depth map"], b"GDepth:Near"),
    "video": ('GCamera:MicroVideo="1" GCamera:MicroVideoOffset="2891"', "", ["video of a motion photo"], b"MicroVideo"),
    "newer video": ('GCamera:MotionPhoto="1"', "", ["video of a motion photo"], b"MotionPhoto"),
    "other eye": ('GImage:Mime="image/jpeg"', "", ["picture for the other eye"], b"GImage:Mime"),
}  # fmt: skip


NO_GAIN_MAP = "the source's gain map (HDR) is missing or damaged: it was read as a plain JPEG"


@pytest.mark.parametrize("name", POINTERS)
@pytest.mark.parametrize("format_", ["jpeg", "png", "webp"])
def test_what_points_into_the_old_file_goes_and_the_loss_is_told(
    through: Callable[..., Path], name: str, format_: str
) -> None:
    attributes, elements, lost, mark = POINTERS[name]
    data = encoded(scene(), "JPEG", xmp=packet('xmp:Rating="5" ' + attributes, elements))
    written = through(data, format_).read_bytes()
    assert mark not in written and b'xmp:Rating="5"' in written
    told = [NO_GAIN_MAP if each == "gain map (HDR)" else f"the source's {each} is not in the result" for each in lost]
    assert decoded(data, format=format_).notes == told


def test_the_pointer_to_extended_xmp_goes_too(through: Callable[..., Path]) -> None:
    data = encoded(scene(), "JPEG", xmp=packet('xmpNote:HasExtendedXMP="B1A56F9E4F7F2EBEA8D9F4B4C2E4A8F1"'))
    assert b"HasExtendedXMP" not in through(data, "jpeg").read_bytes()
    assert decoded(data, format="jpeg").notes == ["the source's XMP beyond one packet is not in the result"]
    assert decoded(data, format="jpeg", metadata="strip").notes == []


def test_a_gain_map_that_no_xmp_names_is_noticed() -> None:
    data = encoded(scene(), "JPEG")
    name = b"urn:iso:std:iso:ts:21496:-1\0"
    segment = b"\xff\xe2" + struct.pack(">H", len(name) + 6) + name + bytes(4)
    assert decoded(data[:2] + segment + data[2:]).notes == [NO_GAIN_MAP]


def test_regions_keep_to_their_faces() -> None:
    size = '<mwg-rs:AppliedToDimensions stDim:w="48" stDim:h="32" stDim:unit="pixel"/>'
    area = '<mwg-rs:Area stArea:x="0.25" stArea:y="0.5" stArea:w="0.1" stArea:h="0.2" stArea:unit="normalized"/>'
    block = packet(elements=f"<mwg-rs:Regions>{size}{area}</mwg-rs:Regions>")
    straight = xmp.upright(block, Placement(1, (48, 32), (96, 64)))
    assert straight == block.replace(b'stDim:w="48" stDim:h="32"', b'stDim:w="96" stDim:h="64"')
    turned = xmp.upright(block, Placement(6, (48, 32), (64, 96)))
    assert turned is not None and b'stDim:w="64" stDim:h="96"' in turned
    assert b'stArea:x="0.5" stArea:y="0.25" stArea:w="0.2" stArea:h="0.1"' in turned
    # Some programs state them as the picture is shown.
    shown = block.replace(b'stDim:w="48" stDim:h="32"', b'stDim:w="32" stDim:h="48"')
    turned = xmp.upright(shown, Placement(6, (48, 32), (64, 96)))
    assert turned is not None and b'stArea:x="0.25" stArea:y="0.5"' in turned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_place_goes_where_the_pixels_go(orientation: int) -> None:
    samples = np.zeros((32, 48, 3), np.uint8)
    samples[4:9, 6:13] = 255
    data = encoded(samples, "PNG", exif=says(orientation))
    upright = decoded(data).samples
    change = Placement(orientation, (48, 32), upright.shape[1::-1])  # type: ignore[arg-type]
    left, top, width, height = (round(number) for number in change.box((6, 4, 7, 5)))
    assert upright[top : top + height, left : left + width].min() == 255 and upright.sum() == 255 * 3 * 35


def test_exif_that_is_measured_in_pixels_is_scaled() -> None:
    photo = {
        0x9214: Value(3, struct.pack("<4H", 10, 8, 4, 6)),
        0xA214: Value(3, struct.pack("<2H", 10, 8)),
        0xA20E: Value(5, struct.pack("<II", 3000, 1)),
        0xA20F: Value(5, struct.pack("<II", 2000, 1)),
    }
    scaled = Exif(photo=photo).upright(Placement(1, (48, 32), (192, 128))).photo
    assert scaled[0x9214].numbers == (40, 32, 16, 24) and scaled[0xA214].numbers == (40, 32)
    assert scaled[0xA20E].data == struct.pack("<II", 12_000, 1) and scaled[0xA20F].data == struct.pack("<II", 8000, 1)
    turned = Exif(photo=photo).upright(Placement(6, (48, 32), (32, 48))).photo
    assert turned[0xA214].numbers == (24, 10) and turned[0xA20E].data == struct.pack("<II", 2000, 1)


@pytest.mark.parametrize("block", [b"<x:xmpmeta", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', b"\xff\xfe<\0x\0/\0>\0"])
def test_damaged_xmp_is_left_out_and_told(through: Callable[..., Path], block: bytes) -> None:
    data = encoded(scene(), "JPEG", xmp=block)
    assert decoded(data).notes == ["the source's XMP is damaged, and not in the result"]
    with Image.open(through(data, "jpeg")) as image:
        assert "xmp" not in image.info


# --- metadata that is neither EXIF, XMP nor IPTC --------------------------------------------------------------------


def texts() -> bytes:
    info = PngInfo()
    info.add_text("parameters", "a lighthouse at dusk\nSteps: 20, Seed: 7")
    info.add_text("workflow", '{"nodes": []}', zip=True)
    info.add_itxt("Comment", "Leuchtturm in der Dämmerung")
    info.add_text("Author", "Ann")
    info.add_text("Copyright", "(c) Ann")
    return encoded(scene(), "PNG", pnginfo=info)


def info_of(path: Path) -> dict[Any, Any]:
    with Image.open(path) as image:
        image.load()
        return image.info


def test_texts_of_png_are_kept_in_png(through: Callable[..., Path]) -> None:
    info = info_of(through(texts()))
    assert info["parameters"] == "a lighthouse at dusk\nSteps: 20, Seed: 7" and info["workflow"] == '{"nodes": []}'
    assert (info["Comment"], info["Author"], info["Copyright"]) == ("Leuchtturm in der Dämmerung", "Ann", "(c) Ann")
    assert decoded(texts()).notes == []


def test_copyright_keeps_who_and_whose_of_the_texts_and_strip_none(through: Callable[..., Path]) -> None:
    info = info_of(through(texts(), metadata="copyright"))
    assert (info["Author"], info["Copyright"]) == ("Ann", "(c) Ann") and "parameters" not in info
    assert not {"Author", "Copyright", "Comment", "parameters"} & set(info_of(through(texts(), metadata="strip")))


def test_a_format_without_a_place_for_texts_says_so(through: Callable[..., Path]) -> None:
    words = "can't hold the source's texts (parameters, workflow, Comment, Author, Copyright)"
    for format_ in ("webp", "avif", "tiff"):
        assert decoded(texts(), format=format_).notes == [f"{format_} {words}"]
    for format_ in ("jpeg", "gif"):
        assert decoded(texts(), format=format_).notes == [f"{format_} {words.replace('Comment, ', '')}"]


def test_comments_go_from_each_format_that_has_them_into_each(through: Callable[..., Path]) -> None:
    text = "Leuchtturm in der Dämmerung"
    sources = [
        encoded(scene(), "JPEG", comment=text.encode()),
        encoded(scene(), "GIF", comment=text.encode()),
        texts(),
    ]
    for source in sources:
        with Image.open(through(source, "jpeg")) as image:
            image.load()
            assert image.info["comment"] == text.encode() and image.getexif() is not None
        assert info_of(through(source, "gif"))["comment"] == text.encode()
        assert info_of(through(source, "png"))["Comment"] == text
        assert "comment" not in info_of(through(source, "jpeg", metadata="strip"))
        assert "comment" not in info_of(through(source, "jpeg", metadata="copyright"))


def test_a_comment_does_not_change_the_picture_nor_hide_exif(through: Callable[..., Path]) -> None:
    block, profile = says(None), rgb_profile(ADOBE_RGB)
    first, second = (
        through(encoded(scene(300, 200), "JPEG", exif=block, icc_profile=profile, comment=comment), "jpeg").read_bytes()
        for comment in (b"", b"x" * 60_000)
    )
    with Image.open(io.BytesIO(first)) as one, Image.open(io.BytesIO(second)) as other:
        assert np.array_equal(one, other) and other.info["icc_profile"] == profile
        assert other.getexif()[0x010F] == "Cam"


def test_hostile_texts_are_not_inflated_and_damaged_ones_not_carried(through: Callable[..., Path]) -> None:
    bomb = b"zTXtparameters\0\0" + zlib.compress(bytes(15 << 20), 9)
    wrong = b"tEXtAuthor\0Ann"
    data = encoded(scene(), "PNG")
    parts = b"".join(struct.pack(">I", len(each) - 4) + each + struct.pack(">I", crc) for each, crc in
                     ((bomb, zlib.crc32(bomb)), (wrong, 1)))  # fmt: skip
    path = through(data[:33] + parts + data[33:])
    assert bomb in path.read_bytes() and wrong not in path.read_bytes()
    assert decoded(data[:33] + parts + data[33:], format="jpeg").notes


# --- brands in the first 32 bytes -----------------------------------------------------------------------------------


def test_heic_of_a_generic_brand_is_known_by_its_items() -> None:
    data = (FILES / "generic_brand.heic").read_bytes()
    assert b"heic" not in data[:32]
    assert read_header(data, MANY).mime == "image/heic" and decoded(data).samples.shape == (64, 96, 3)


@pytest.mark.parametrize("kind", ["heic", "avif"])
@pytest.mark.parametrize("generic", [b"mif1", b"miaf", b"msf1", b"mif2"])
def test_any_brands_will_do_where_the_items_say_what_they_are(kind: str, generic: bytes) -> None:
    data = (FILES / "turned.heic").read_bytes() if kind == "heic" else encoded(scene(), "AVIF")
    size = int.from_bytes(data[:4], "big")
    # Of the same length: places in the file are counted from its start.
    changed = data[:8] + generic + data[12:16] + generic * ((size - 16) // 4) + data[size:]
    assert sniff(changed) == f"image/{kind}"
    if generic == b"mif1":
        assert np.array_equal(decoded(changed).samples, decoded(data).samples)
    wrong = b"heic" if kind == "avif" else b"avif"
    assert sniff(data[:8] + wrong + data[12:16] + wrong * ((size - 16) // 4) + data[size:]) == f"image/{kind}"


def test_a_telling_brand_counts_wherever_it_stands_in_its_box() -> None:
    box = b"ftypmif1" + bytes(4) + b"mif1miafMiPrMiHEMA1AMA1Bgeo1" * 3 + b"avif"
    assert sniff(struct.pack(">I", len(box) + 4) + box) == "image/avif"
    assert sniff(struct.pack(">I", len(box)) + box) is None  # it stands behind the box


def test_heif_with_another_codec_is_named() -> None:
    data = (FILES / "turned.heic").read_bytes()
    for codec, name in ((b"vvc1", "H.266 (VVC)"), (b"jpeg", "JPEG"), (b"unci", "uncompressed pictures")):
        assert name in refused(data.replace(b"hvc1", codec))


# --- sound or unsupported files are "damaged" -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name"),
    [(34925, "LZMA"), (50000, "Zstandard"), (34887, "LERC"), (6, "old-style JPEG"), (60_001, "number 60001")],
)
def test_a_compression_of_tiff_that_is_not_read_is_named(code: int, name: str) -> None:
    assert refused(with_tag(tiff((scene(), {})), 259, code)) == (
        f"TIFF with {name} compression is not supported; save it with LZW, deflate or none"
    )


@pytest.mark.parametrize("compression", [None, "deflate", "packbits"])
def test_compressions_of_tiff_that_are_read_still_are(compression: str | None) -> None:
    data = bytes(to_vips(scene()).tiffsave_buffer(compression=compression or "none"))
    assert np.array_equal(decoded(data).samples, scene())
    assert np.array_equal(decoded(bytes(to_vips(scene()).tiffsave_buffer(compression="lzw"))).samples, scene())


def test_tiles_with_a_plane_for_each_channel_are_named() -> None:
    planes = np.moveaxis(scene(96, 64), -1, 0).copy()
    tiled = tiff((planes, {"photometric": "rgb", "planarconfig": "separate", "tile": (32, 32)}))
    assert "in tiles with one plane per channel" in refused(tiled)
    strips = tiff((planes, {"photometric": "rgb", "planarconfig": "separate"}))
    assert np.array_equal(decoded(strips).samples, scene(96, 64))


@pytest.mark.parametrize(("kind", "dtype"), [("cielab", np.uint8), ("icclab", np.uint8), ("icclab", np.uint16)])
def test_lab_tiff_is_read(kind: str, dtype: type[Any]) -> None:
    lab = rgb2lab(scene(96, 64))
    if kind == "cielab":
        stored = np.stack([lab[..., 0] * 2.55, lab[..., 1], lab[..., 2]], axis=-1)
        stored = np.rint(stored).astype(np.int16).astype(np.uint8)
    else:
        unit = 256 if dtype is np.uint16 else 1
        stored = np.stack([lab[..., 0] * 2.55, lab[..., 1] + 128, lab[..., 2] + 128], axis=-1) * unit
        stored = np.rint(stored).astype(dtype)
    found = decoded(tiff((stored, {"photometric": kind})))
    assert found.samples.dtype == dtype
    error = np.abs(found.samples / (257 if dtype is np.uint16 else 1) - scene(96, 64))
    assert error.mean() < 1.5 and error.max() < (1 if dtype is np.uint16 else 12)  # a step of a or b is that much


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("weights", "codes"),
    [((0.299, 0.587, 0.114), (0, 255, 128, 255, 128, 255)), ((0.2126, 0.7152, 0.0722), (16, 235, 128, 240, 128, 240))],
)
def test_ycbcr_tiff_without_jpeg_in_it_has_its_own_colours(
    dtype: type[Any], weights: tuple[float, ...], codes: tuple[int, ...]
) -> None:
    picture = scene(96, 64)
    rgb = picture.astype(float)
    y = rgb @ weights
    chroma = [(rgb[..., 2] - y) / (2 - 2 * weights[2]), (rgb[..., 0] - y) / (2 - 2 * weights[0])]
    stored = np.stack(
        [y * (codes[1] - codes[0]) / 255 + codes[0]]
        + [part * (codes[3] - codes[2]) / 127 + codes[2] for part in chroma],
        axis=-1,
    )
    unit = 257 if dtype is np.uint16 else 1
    stored = np.rint(stored.clip(0, 255) * unit).astype(dtype)
    tags = [
        (529, 5, 3, tuple(part for each in weights for part in (round(each * 10_000), 10_000)), True),
        (530, 3, 2, (1, 1), True),
        (532, 5, 6, tuple(part for each in codes for part in (each, 1)), True),
    ]
    for compression in (None, "zlib"):
        data = tiff((stored, {"photometric": "rgb", "compression": compression, "extratags": tags}))
        directory = TiffFile(io.BytesIO(data)).pages[0]
        place = directory.tags["PhotometricInterpretation"].valueoffset
        data = data[:place] + struct.pack("<H", 6) + data[place + 2 :]
        found = decoded(data)
        assert found.samples.dtype == dtype
        assert np.abs(found.samples / unit - picture).max() < 3


@pytest.mark.parametrize(("bits", "channels"), [(4, 3), (10, 1), (12, 3), (24, 1)])
def test_depths_of_tiff_that_are_not_read_are_named(bits: int, channels: int) -> None:
    data = tiff((scene()[..., :channels].squeeze(), {}))
    place = TiffFile(io.BytesIO(data)).pages[0].tags["BitsPerSample"].valueoffset
    data = data[:place] + struct.pack("<H", bits) * channels + data[place + 2 * channels :]
    assert f"{bits} bits per sample" in refused(data)


def test_an_empty_file_is_called_empty() -> None:
    assert refused(b"") == "the file is empty"


def test_apples_own_png_is_named() -> None:
    data = encoded(scene(), "PNG")
    part = struct.pack(">I", 4) + b"CgBIP\0\x20\2" + struct.pack(">I", zlib.crc32(b"CgBIP\0\x20\2"))
    assert "CgBI" in refused(data[:8] + part + data[8:])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_without_its_last_two_bytes_is_whole_and_without_more_is_not(
    options: dict[str, Any], channels: int
) -> None:
    data = encoded(scene(70, 50, channels), "JPEG", quality=90, **options)
    whole = decoded(data).samples
    for missing in (1, 2):
        assert np.array_equal(decoded(data[:-missing]).samples, whole)
    for missing in (*range(4, 60), *range(60, len(data) - 200, 7)):
        with pytest.raises(SourceUnreadable):
            decoded(data[:-missing])


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_not_whole() -> None:
    data = encoded(scene(70, 50), "JPEG", quality=90, progressive=True)
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    for start in starts[1:]:
        table = data.rfind(b"\xff\xc4", 0, start)  # tables come before the scan that needs them
        with pytest.raises(SourceUnreadable):
            decoded(data[: max(table, 0) or start])


@pytest.mark.parametrize("kind", ["png", "interlaced", "gif"])
def test_png_and_gif_that_lack_only_their_end_are_whole(kind: str) -> None:
    data = {
        "png": encoded(scene(70, 50), "PNG"),
        "interlaced": bytes(to_vips(scene(70, 50)).write_to_buffer(".png", interlace=True)),
        "gif": encoded(scene(70, 50), "GIF"),
    }[kind]
    whole, last = decoded(data).samples, 2 if kind == "gif" else 20  # end, and of PNG the sums before it
    for missing in range(1, last + 1):
        assert np.array_equal(decoded(data[:-missing]).samples, whole)
    for missing in range(last + 1, min(len(data) - 40, 400)):
        with pytest.raises(SourceUnreadable):
            decoded(data[:-missing])


@pytest.mark.parametrize(("code", "words"), [(0xC5, "hierarchical JPEG"), (0xF7, "JPEG-LS"), (0xCB, "arithmetic")])
def test_kinds_of_jpeg_that_are_not_read_are_named(code: int, words: str) -> None:
    data = bytearray(encoded(scene(), "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = code
    assert words in refused(bytes(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"8BPS\0\1" + bytes(50), "Photoshop"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp42", "a video"),
    ],
)
def test_other_files_are_named(data: bytes, words: str) -> None:
    said = refused(data)
    assert words in said and "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC" in said


# --- resolution invented or lost ------------------------------------------------------------------------------------


def phys(across: int, down: int, unit: int) -> bytes:
    data = encoded(scene(), "PNG")
    part = b"pHYs" + struct.pack(">IIB", across, down, unit)
    return data[:33] + struct.pack(">I", 9) + part + struct.pack(">I", zlib.crc32(part)) + data[33:]


def density(across: int, down: int, unit: int) -> bytes:
    data = bytearray(encoded(scene(), "JPEG"))
    data[13:18] = struct.pack(">BHH", unit, across, down)
    return bytes(data)


def stated(path: Path) -> tuple[Any, ...]:
    """The numbers and the unit in the file."""
    data = path.read_bytes()
    if path.suffix == ".png":
        place = data.find(b"pHYs")
        return struct.unpack(">IIB", data[place + 4 : place + 13]) if place > 0 else ()
    if path.suffix == ".jpeg":
        unit, across, down = struct.unpack(">BHH", data[13:18])
        return (across, down, unit) if data[6:10] == b"JFIF" else ()
    if path.suffix == ".gif":
        return (data[12],)
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        return tags[282].value, tags[283].value, int(tags[296].value)


CASES = [
    # source, result, what it says
    ("aspect png", phys(2, 1, 0), "png", (2, 1, 0)),
    ("aspect png", phys(2, 1, 0), "jpeg", (2, 1, 0)),
    ("aspect png", phys(2, 1, 0), "tiff", ((2, 1), (1, 1), 1)),
    ("aspect jpeg", density(2, 1, 0), "jpeg", (2, 1, 0)),
    ("aspect jpeg", density(2, 1, 0), "png", (2, 1, 0)),
    ("aspect jpeg", density(1, 2, 0), "gif", (113,)),
    ("inches", density(300, 150, 1), "jpeg", (300, 150, 1)),
    ("inches", density(300, 300, 1), "png", (11811, 11811, 1)),
    ("inches", density(300, 300, 1), "tiff", ((300, 1), (300, 1), 2)),
    ("centimetres", density(10, 10, 2), "jpeg", (10, 10, 2)),
    ("centimetres", density(10, 10, 2), "png", (1000, 1000, 1)),
    ("metres", phys(11811, 11811, 1), "png", (11811, 11811, 1)),
    ("metres", phys(11811, 11811, 1), "jpeg", (300, 300, 1)),
    ("metres", phys(2835, 2835, 1), "jpeg", (72, 72, 1)),
    ("nothing", encoded(scene(), "PNG"), "png", ()),
    ("nothing", encoded(scene(), "PNG"), "jpeg", ()),
    ("nothing", encoded(scene(), "PNG"), "tiff", ((1, 1), (1, 1), 1)),
    ("nothing", density(1, 1, 0), "png", ()),
    ("nothing in tiff", tiff((scene(), {"resolution": (1, 1), "resolutionunit": 1})), "png", ()),
    ("no unit in tiff", tiff((scene(), {"resolution": (2, 1), "resolutionunit": 1})), "png", (2, 1, 0)),
    ("25.4 dpi", density(254, 254, 1), "jpeg", (254, 254, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "format_", "said"), [case[1:] for case in CASES], ids=[f"{c[0]}-{c[2]}" for c in CASES]
)
def test_a_resolution_is_kept_as_it_is_and_none_is_invented(
    through: Callable[..., Path], data: bytes, format_: str, said: tuple[Any, ...]
) -> None:
    assert stated(through(data, format_)) == said


def test_webp_and_avif_say_it_in_exif_even_where_the_source_had_none(through: Callable[..., Path]) -> None:
    for format_ in ("webp", "avif"):
        with Image.open(through(density(300, 300, 1), format_)) as image:
            assert float(image.getexif()[282]) == pytest.approx(300, abs=0.1)
        with Image.open(through(encoded(scene(), "PNG"), format_)) as image:
            assert 282 not in image.getexif()


def test_strip_says_nothing_of_resolution(through: Callable[..., Path]) -> None:
    assert stated(through(density(300, 300, 1), "png", metadata="strip")) == ()
    assert stated(through(density(300, 300, 1), "jpeg", metadata="strip")) == ()


# --- bad files write hundreds of lines ------------------------------------------------------------------------------


def test_libvips_warnings_of_bad_files_are_not_shown(tmp_path: Path) -> None:
    data = bytearray(encoded(scene(300, 200), "PNG"))
    noisy = bytearray(bytes(to_vips(scene(300, 200)).tiffsave_buffer(compression="deflate")))
    noisy[40:4000] = bytes(3960)
    (tmp_path / "a.tif").write_bytes(noisy)
    (tmp_path / "b.png").write_bytes(data[:-400])
    code = (
        "import sys, pyvips\nfrom server.logs import configure_logs\nfrom server.images.read.open import open_picture\n"
        "configure_logs(30)\n"
        "for name in sys.argv[1:]:\n"
        "    with open(name, 'rb') as file: data = file.read()\n"
        "    try: open_picture(data, 10**8).avg()\n"
        "    except pyvips.Error: pass\n"
        "    else: raise SystemExit(name)\n"
    )
    names = [str(tmp_path / "a.tif"), str(tmp_path / "b.png")]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stderr == "" == done.stdout


def test_a_raw_reader_of_tiff_tags_is_lenient() -> None:
    assert tags_of.parse(b"II*\0\xff\xff\xff\xff") == Exif()
    assert open_picture(tiff((scene(), {})), MANY).width == 48
