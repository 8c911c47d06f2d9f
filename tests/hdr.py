"""HDR pictures for tests and benchmarks, made here; and how far the light of two is apart.

Light is H × W × 3, in cd/m² in the primaries of sRGB or BT.2020. The writers and readers are not those that are tested:
libultrahdr (in libvips) and Pillow write and read gain maps, libheif (in pi_heif) states the code points of AVIF.
"""

import io
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.images.metadata.cicp import CodePoints
from server.images.metadata.icc import BT2020, SRGB, to_xyz
from server.images.metadata.metadata import Metadata, attach_metadata
from server.images.tone_map import WHITE_NITS, hlg_light, pq_light, pq_signal
from server.images.write.save import save
from server.job.job import Params
from tests import heif

Light = NDArray[np.float64]

STOPS = 3.0
"""The brightest part of `light` above standard white."""
_TO_BT2020 = np.linalg.solve(to_xyz(BT2020), to_xyz(SRGB))
_MASTERING = struct.pack(">8H2I", 35400, 14600, 8500, 39850, 6550, 2300, 15635, 16450, 10_000_000, 50)
"""A display of BT.2020's primaries, 0.005 … 1,000 cd/m², as mDCV has it."""


def light(seed: int, height: int = 72, width: int = 96) -> Light:
    """Smooth colours, texture, edges, and lamps of up to STOPS above white; sRGB's primaries, cd/m²."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [
        0.08 + 0.5 * (0.5 + 0.5 * np.sin(generator.uniform(2, 9) * x + generator.uniform(2, 9) * y + k))
        for k in range(3)
    ]
    picture = np.stack(planes, axis=-1)
    picture *= 1 + 0.15 * np.sin(2 * np.pi * x * width / generator.uniform(6, 12))[..., None]
    picture[(x + y > 0.9) & (x < 0.8)] *= 0.4
    for _ in range(4):
        top, left, radius = generator.uniform(0, 0.7), generator.uniform(0, 0.9), generator.uniform(0.03, 0.12)
        lamp = np.clip(1.5 - np.hypot(y - top, x - left) / radius, 0, 1)[..., None]
        picture = picture * (1 - lamp) + lamp * 2**STOPS * generator.uniform(0.6, 1, 3)
    result: Light = np.clip(picture, 0.001, 2**STOPS) * WHITE_NITS
    return result


# --- gain maps ------------------------------------------------------------------------------------------------------


def by_libultrahdr(picture: Light, reduced: int = 4) -> bytes:
    """With a gain map whose sides are so many times smaller; metadata by ISO 21496-1."""
    image = pyvips.Image.new_from_array((picture / WHITE_NITS).astype(np.float32), interpretation="scrgb")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made.jpg"
        image.uhdrsave(str(path), Q=97, gainmap_scale_factor=reduced)
        return path.read_bytes()


def by_hand(
    picture: Light,
    reduced: int = 2,
    *,
    coloured: bool = False,
    orientation: int = 1,
    apple: bool = False,
    **pillow: Any,
) -> bytes:
    """Metadata in XMP alone, as phones wrote them first: by Google's form, or by Apple's."""
    base, small, low, high = split(picture, reduced, coloured=coloured)
    numbers = {"GainMapMin": low, "GainMapMax": high, "Gamma": 1, "OffsetSDR": 1 / 64, "OffsetHDR": 1 / 64}
    numbers |= {"HDRCapacityMin": 0, "HDRCapacityMax": high}
    hdrgm = "".join(f' hdrgm:{name}="{value:.6f}"' for name, value in numbers.items())
    space = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    kind = "><x:t>urn:com:apple:photo:2020:aux:hdrgainmap</x:t></rdf:Description>"
    map_xmp = _packet(f' xmlns:x="urn:x"{kind}' if apple else f" {space}{hdrgm}/>")
    exif = Image.Exif()
    exif[0x0112] = orientation
    beside = _saved(small, xmp=map_xmp)
    items = '<Container:Directory xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item='
    items += (
        '"http://ns.google.com/photos/1.0/container/item/"><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item'
    )
    items += f' Item:Semantic="GainMap" Item:Mime="image/jpeg" Item:Length="{len(beside)}"/></rdf:li></rdf:Seq>'
    own = "" if apple else _packet(f" {space}>{items}</Container:Directory></rdf:Description>").decode()
    return _saved(base, xmp=own.encode(), exif=exif, **pillow) + beside


def split(picture: Light, reduced: int = 2, *, coloured: bool = False) -> tuple[Image.Image, Image.Image, float, float]:
    """The picture in the standard range, its gain map, and the least and the most gain in stops; offsets are 1/64."""
    linear = picture / WHITE_NITS
    standard = linear * (1 + linear / 4**STOPS) / (1 + linear)  # 2**STOPS becomes 1
    gain = np.log2((linear + 1 / 64) / (standard + 1 / 64))
    low, high = float(gain.min()), float(gain.max())
    scaled = (gain if coloured else gain.mean(axis=-1, keepdims=True)) - low
    codes = np.rint(np.clip(scaled / (high - low), 0, 1) * 255).astype(np.uint8)
    h, w = codes.shape[:2]
    small = Image.fromarray(codes if coloured else codes[..., 0]).resize(
        (w // reduced, h // reduced), Image.Resampling.BOX
    )
    curve = np.where(
        standard <= 0.0031308, standard * 12.92, 1.055 * np.maximum(standard, 0.0031308) ** (1 / 2.4) - 0.055
    )
    return Image.fromarray(np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)), small, low, high


def _packet(rest: str) -> bytes:
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    inside = f'<rdf:RDF xmlns:rdf="{rdf}"><rdf:Description rdf:about=""{rest}</rdf:RDF>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{inside}</x:xmpmeta>'.encode()


def _saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=97, subsampling=0, **options)
    return buffer.getvalue()


def in_heif(
    base: bytes, small: bytes, low: float, high: float, *properties: bytes, flags: int = 0x40, **shown: Any
) -> bytes:
    """A HEIC or AVIF file with a gain map by ISO 21496-1, of two files with one picture each; `properties` of both."""
    million = 1_000_000
    pairs = (
        (0, 1),
        (round(high * million), million),
        (round(low * million), million),
        (round(high * million), million),
    )
    numbers = struct.pack(">HHB", 0, 0, flags)
    numbers += b"".join(struct.pack(">iI", *each) for each in (*pairs, (1, 1), (1, 64), (1, 64)))
    items = [
        heif.picture(base, *properties),
        heif.picture(small, *properties, hidden=True),
        heif.Item(b"tmap", b"\0" + numbers, shown.pop("colours", [])),
    ]
    return heif.written(b"heic" if b"hvcC" in base else b"avif", items, [(b"dimg", 3, [1, 2])], **shown)


def in_heic_of_apple(base: bytes, small: bytes, *, stated: float | None = None, camera: bool = False) -> bytes:
    """With an auxiliary picture, and the headroom in its XMP, or in the maker note of the picture: 8, then."""
    items = [
        heif.picture(base),
        heif.picture(small, heif.full(b"auxC", 0, 0, b"urn:com:apple:photo:2020:aux:hdrgainmap\0")),
    ]
    references: list[heif.Reference] = [(b"auxl", 2, [1])]
    if stated is not None:
        space = 'xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/" HDRGainMap:HDRGainMapVersion="131072"'
        packet = _packet(f' {space} HDRGainMap:HDRGainMapHeadroom="{stated}"/>')
        items.append(heif.Item(b"mime", packet, more=b"application/rdf+xml\0"))
        references.append((b"cdsc", 3, [2]))
    if camera:
        numbers = struct.pack(">ii", 1, 1) + struct.pack(">ii", 0, 1)  # 3 stops
        tags = struct.pack(">H", 2) + b"".join(
            struct.pack(">HHII", *each) for each in ((33, 10, 1, 44), (48, 10, 1, 52))
        )
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x927C] = b"Apple iOS\0\0\1MM" + tags + bytes(4) + numbers
        items.append(heif.Item(b"Exif", bytes(3) + b"\6" + exif.tobytes()))
        references.append((b"cdsc", len(items), [1]))
    return heif.written(b"heic", items, references)


def light_of_jpeg(data: bytes) -> Light:
    """By ISO 21496-1, for a display without limit, as libultrahdr reads its parts; cd/m² in sRGB's primaries.

    NOTE: not by libultrahdr's own reconstruction, which puts the centre of a gain map's pixel at the corner of what it
    covers; the standard and browsers put it in the middle.
    """
    image = pyvips.Image.uhdrload_buffer(data)
    assert image.get_typeof("gainmap-data"), "libultrahdr finds no gain map"
    assert image.uhdr2scRGB().max() > 1.5, "libultrahdr sees no HDR"
    linear = image.colourspace("scrgb").numpy().astype(np.float64)
    codes = np.asarray(Image.open(io.BytesIO(image.get("gainmap-data")))).astype(np.float32)
    planes = np.atleast_3d(codes).transpose(2, 0, 1)
    size = image.width, image.height
    full = [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) / 255 for each in planes]
    low, high, gamma, before, after = (
        np.array(image.get(f"gainmap-{name}"))
        for name in ("min-content-boost", "max-content-boost", "gamma", "offset-sdr", "offset-hdr")
    )
    share = np.clip(np.stack(full, axis=-1), 0, 1) ** (1 / gamma)
    gain = np.log2(low) * (1 - share) + np.log2(high) * share
    result: Light = np.maximum((linear + before) * 2**gain - after, 0) * WHITE_NITS
    return result


# --- PQ and HLG -----------------------------------------------------------------------------------------------------


def coded(picture: Light, codes: CodePoints) -> NDArray[np.uint16]:
    """The signal of 16 bits in BT.2020."""
    wide = np.clip(picture @ _TO_BT2020.T, 0, None)
    if codes.kind == "PQ":
        signal = pq_signal(wide)
    else:
        shown = np.clip(wide / 1000, 0, 1)
        luma = shown @ [0.2627, 0.6780, 0.0593]
        scene = np.clip(shown * np.maximum(luma, 1e-9)[..., None] ** (1 / 1.2 - 1), 0, 1)
        bent = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), bent)
    return np.rint(np.clip(signal, 0, 1) * 65535).astype(np.uint16)


def avif(picture: Light, codes: CodePoints, **params: Any) -> bytes:
    return _written(coded(picture, codes), codes, format="avif", **{"quality": 98, **params})


def png(picture: Light, codes: CodePoints) -> bytes:
    return _written(coded(picture, codes), codes, format="png")


PQ = CodePoints(9, 16, (1624, 350), _MASTERING)
HLG = CodePoints(9, 18)


def _written(samples: NDArray[np.uint16], codes: CodePoints, **params: Any) -> bytes:
    image = pyvips.Image.new_from_array(samples, interpretation="rgb16")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made"
        save(attach_metadata(image, Metadata(code_points=codes)), path, Params(scale=1, hdr="keep", **params))
        return path.read_bytes()


def light_of_signal(samples: NDArray[np.uint16], codes: CodePoints) -> Light:
    """cd/m² in BT.2020."""
    signal = samples[..., :3] / 65535
    if codes.kind == "PQ":
        return pq_light(signal)
    scene = hlg_light(signal)
    result: Light = scene * (scene @ [0.2627, 0.6780, 0.0593])[..., None] ** 0.2 * 1000
    return result


# --- differences ----------------------------------------------------------------------------------------------------


def reduced(picture: Light, times: int) -> Light:
    """The mean light of blocks of times × times pixels."""
    h, w = picture.shape[:2]
    result: Light = picture.reshape(h // times, times, w // times, times, -1).mean(axis=(1, 3))
    return result


def far(ours: Light, theirs: Light, *, wide: bool = False) -> Light:
    """ΔE_ITP (ITU-R BT.2124), pixel by pixel. `wide`: in BT.2020, not in sRGB's primaries."""
    difference = _itp(ours, wide=wide) - _itp(theirs, wide=wide)
    result: Light = 720 * np.sqrt((difference**2).sum(axis=-1))
    return result


def _itp(picture: Light, *, wide: bool) -> Light:
    rgb = np.clip(picture if wide else picture @ _TO_BT2020.T, 0, 10_000)
    lms = rgb @ np.array([[1688, 2146, 262], [683, 2951, 462], [99, 309, 3688]]).T / 4096
    ictcp = pq_signal(lms) @ np.array([[2048, 2048, 0], [6610, -13613, 7003], [17933, -17390, -543]]).T / 4096
    result: Light = ictcp * [1, 0.5, 1]
    return result
