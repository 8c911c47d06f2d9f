"""Which picture of a TIFF file is the main one, and whether it can be decoded. Reads directories, no samples.

TIFF's signature says little. Camera raw files are TIFF (TIFF/EP, DNG), and their first picture is a small preview;
other files begin with reduced pictures too; and a directory can have compressions and colours that libvips does not
decode.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from server.errors import SourceUnreadable
from server.images.metadata.exif import ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, Reader, Tags, ratios

_SUBFILE, _OLD_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _MAKE = 254, 255, 259, 262, 271
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _PLANAR, _TILE_WIDTH = 256, 257, 258, 277, 284, 322
_SUBDIRECTORIES, _INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 330, 332, 338, 339
_LUMA, _SUBSAMPLING, _BLACK_WHITE = 529, 530, 532
_DNG_VERSION, _CFA_PATTERN_SIZE, _CFA_PATTERN = 50706, 33421, 33422
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""
_OLD_REDUCED = 2
"""A value of SubfileType, an older tag that NewSubfileType has replaced."""

_CFA, _LINEAR_RAW = 32803, 34892
_RAW_PHOTOMETRIC = {_CFA, _LINEAR_RAW}
_RAW_COMPRESSIONS = {
    32767: "Sony ARW",
    32769: "packed raw",
    32770: "Samsung SRW",
    34713: "Nikon NEF",
    65000: "Kodak DCR",
    65535: "Pentax PEF",
}
_RAW_BY_MAKE = (
    ("nikon", "Nikon NEF"),
    ("canon", "Canon CR2"),
    ("sony", "Sony ARW"),
    ("pentax", "Pentax PEF"),
    ("ricoh", "Pentax PEF"),
    ("samsung", "Samsung SRW"),
    ("hasselblad", "Hasselblad 3FR"),
    ("kodak", "Kodak DCR"),
    ("epson", "Epson ERF"),
    ("mamiya", "Mamiya MEF"),
    ("leaf", "Leaf MOS"),
    ("phase one", "Phase One IIQ"),
    ("olympus", "Olympus ORF"),
    ("panasonic", "Panasonic RW2"),
)

_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32809, 32946, 34676, 34677, 50001}
"""Compressions that libvips, as built in its wheel, decodes: none, CCITT, LZW, JPEG, deflate, PackBits, ThunderScan,
SGI LogLuv, WebP."""
_OTHER_COMPRESSIONS = {
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy DNG",
    34925: "LZMA",
    34926: "Zstandard",
    34927: "WebP",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_GREY, _RGB, _PALETTE, _CMYK, _YCBCR, CIELAB, ICCLAB = (0, 1), 2, 3, 5, 6, 8, 9
_LOG = (32844, 32845)
_COLOURS = {0: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, CIELAB: 3, ICCLAB: 3, 32844: 1, 32845: 3}
"""Samples per pixel, without extra ones."""
_BT601 = (0.299, 0.587, 0.114)
_JPEG = 7
_ALPHA = (1, 2)
"""Values of ExtraSamples: alpha, premultiplied or not. 0 is "unspecified": often an editor's mask."""

_OF_ONE_PAGE = {ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}

_MOST_DIRECTORIES = 1000
_MOST_ENTRIES = 20_000
"""In all directories together: in hostile files they overlap."""
_MOST_CHANNELS = 10
_DEPTHS, _DEPTHS_OF_ONE = (8, 16, 32, 64), (1, 2, 4)
"""Bits per sample that libvips unpacks, and those only of a picture with one channel."""


@dataclass(frozen=True)
class Directory:
    """The directory of one picture in the file."""

    page: int
    """Its index in the chain, from 0; for a sub-directory the index of its parent."""
    sub: int
    """Its index among the parent's sub-directories, from 0; -1 if it is in the chain itself."""
    offset: int
    tags: Tags

    def number(self, tag: int, default: int) -> int:
        """The first number of a tag; `default`: the standard's value for a missing tag."""
        return (self.numbers(tag) or (default,))[0]

    def numbers(self, tag: int) -> tuple[int, ...]:
        return self.tags[tag].numbers if tag in self.tags else ()

    @property
    def photometric(self) -> int:
        return self.number(_PHOTOMETRIC, 1)

    @property
    def is_lab(self) -> bool:
        """Lab colours that libvips does not convert."""
        return self.photometric == ICCLAB or (self.photometric == CIELAB and self.number(_BITS, 1) == 8)

    @property
    def luma(self) -> tuple[float, ...] | None:
        """The shares of red, green and blue in the brightness of YCbCr that libvips takes for RGB; None otherwise.
        libvips converts it from JPEG, and where its chroma is reduced."""
        if (self.photometric, self.numbers(_SUBSAMPLING)) != (_YCBCR, (1, 1)) or self.number(_COMPRESSION, 1) == _JPEG:
            return None
        stated = ratios(self.tags.get(_LUMA))
        return stated if len(stated) == 3 and min(stated) > 0 else _BT601

    @property
    def black_white(self) -> tuple[float, ...]:
        """Of YCbCr in 8 bits, the codes of black and white: of Y, Cb and Cr (TIFF 6.0, ReferenceBlackWhite)."""
        stated = ratios(self.tags.get(_BLACK_WHITE))
        usable = len(stated) == 6 and all(low < high for low, high in zip(stated[::2], stated[1::2], strict=True))
        return stated if usable else (0, 255, 128, 255, 128, 255)

    @property
    def pixels(self) -> int:
        return self.number(_WIDTH, 0) * self.number(_HEIGHT, 0)

    @property
    def is_whole(self) -> bool:
        """Neither a reduced version of another picture nor a mask."""
        return not self.number(_SUBFILE, 0) & (_REDUCED | _MASK) and self.number(_OLD_SUBFILE, 1) != _OLD_REDUCED

    @property
    def colours(self) -> int:
        """Bands of the picture in libvips, without extra ones."""
        if self.photometric == _PALETTE:
            return 3
        samples = self.number(_SAMPLES, 1)
        # A picture with three samples that is marked as grey is RGB.
        return 3 if self.photometric in _GREY and samples >= 3 else _COLOURS.get(self.photometric, samples)

    @property
    def alpha(self) -> int | None:
        """Index of the alpha band in libvips, or None. The number of channels does not tell."""
        extra = self.numbers(_EXTRA_SAMPLES)
        first = self.number(_SAMPLES, 1) - len(extra)
        return next((first + place for place, kind in enumerate(extra) if kind in _ALPHA), None)


@dataclass(frozen=True)
class Tiff:
    main: Directory
    """The main picture: the first at full resolution; if none is marked as such, the largest."""
    tags: Tags
    """Tags of the main picture: its own, else those of the first directory, which describe the whole file."""
    pages: int
    """The number of pictures in the chain, without reduced versions."""
    page: int
    """The number of the main picture among these, from 1."""


def look(data: bytes) -> Tiff:
    """Raises SourceUnreadable, with the reason, for camera raw files and pictures that can't be decoded."""
    found = list(_directories(data))
    if not found:
        raise SourceUnreadable("the picture file is damaged")
    raw = next((kind for kind in map(_raw_kind, found) if kind), None)
    if raw is not None:
        make = bytes(found[0].tags[_MAKE].data).decode("latin-1").lower() if _MAKE in found[0].tags else ""
        named = next((name for word, name in _RAW_BY_MAKE if word in make), raw) if raw == "TIFF/EP" else raw
        raise SourceUnreadable(raw_message(named))
    whole = [each for each in found if each.is_whole]
    main = whole[0] if whole else max(found, key=lambda each: each.pixels)
    chain = [each for each in whole if each.sub < 0]
    page = next((place for place, each in enumerate(chain, 1) if each.page >= main.page), 1)
    _check(main)
    shared = found[0].tags
    if main.page > 0:  # orientation and resolution of another page do not apply
        shared = {tag: value for tag, value in shared.items() if tag not in _OF_ONE_PAGE}
    return Tiff(main, {**shared, **main.tags}, max(1, len(chain)), page)


def pages(data: bytes | mmap.mmap) -> list[Directory]:
    """The directories of all pages: the pictures of the chain, without reduced versions and masks."""
    return [each for each in _directories(data) if each.is_whole and each.sub < 0]


def one_page(data: bytes | mmap.mmap, page: Directory) -> bytes:
    """The file as a TIFF with only that page."""
    return Reader(data).alone(page.offset)


def readable(data: bytes, main: Directory) -> bytes:
    """The file in a form that libvips reads: it can't read 8-bit CIELAB, but the same numbers as ICCLab."""
    if main.photometric == CIELAB and main.is_lab:
        return Reader(data).with_short(main.offset, _PHOTOMETRIC, ICCLAB)
    return data


def raw_message(kind: str) -> str:
    return f"the file is a camera raw ({kind}), which is not supported: develop it, and send a TIFF, PNG or JPEG of it"


def _directories(data: bytes | mmap.mmap) -> Iterator[Directory]:
    """The directories of the chain, each followed by its sub-directories."""
    reader = Reader(data)
    seen: set[int] = set()
    room = _MOST_ENTRIES

    def is_new(place: int) -> bool:
        return reader.is_directory(place) and place not in seen and len(seen) < _MOST_DIRECTORIES and room > 0

    offset, page = reader.first, 0
    while is_new(offset):
        seen.add(offset)
        room -= reader.count(offset)
        parent = Directory(page, -1, offset, reader.tags(offset))
        yield parent
        for sub, place in enumerate(parent.numbers(_SUBDIRECTORIES)):
            if is_new(place):
                seen.add(place)
                room -= reader.count(place)
                yield Directory(page, sub, place, reader.tags(place))
        offset, page = reader.next(offset), page + 1


def _raw_kind(directory: Directory) -> str | None:
    if _DNG_VERSION in directory.tags:
        return "Adobe DNG"
    if directory.photometric in _RAW_PHOTOMETRIC or {_CFA_PATTERN_SIZE, _CFA_PATTERN} <= set(directory.tags):
        return "TIFF/EP"
    return _RAW_COMPRESSIONS.get(directory.number(_COMPRESSION, 1))


def _check(directory: Directory) -> None:
    """Raises SourceUnreadable for valid pictures that libvips would report as damaged, or would read wrongly."""
    code = directory.number(_COMPRESSION, 1)
    if code not in _COMPRESSIONS:
        name = _OTHER_COMPRESSIONS.get(code, f"number {code}")
        raise SourceUnreadable(f"TIFF with {name} compression is not supported; save it with LZW, deflate or none")
    photometric = directory.photometric
    if photometric not in _COLOURS or (photometric == _CMYK and directory.number(_INK_SET, 1) != 1):
        raise SourceUnreadable("TIFF with colours of this kind is not supported; convert it to RGB, CMYK or grey")
    samples = directory.number(_SAMPLES, 1)
    if samples > _MOST_CHANNELS:
        raise SourceUnreadable(f"the picture has {samples} channels; this server reads at most {_MOST_CHANNELS}")
    if samples < _COLOURS[photometric] and photometric not in _LOG:
        raise SourceUnreadable("the picture file is damaged")
    bits = directory.number(_BITS, 1)
    if bits not in _DEPTHS and not (samples == 1 and bits in _DEPTHS_OF_ONE):
        raise SourceUnreadable(f"TIFF with {bits} bits per sample is not supported; convert it to 8 or 16 bits")
    if len(set(directory.numbers(_BITS))) > 1:
        raise SourceUnreadable("TIFF whose channels differ in depth is not supported; convert it to 8 or 16 bits")
    if directory.number(_PLANAR, 1) == 2 and samples > 1 and _TILE_WIDTH in directory.tags:
        raise SourceUnreadable(
            "TIFF in tiles with one plane per channel is not supported; save it in strips, or with interleaved channels"
        )
    if photometric in (CIELAB, ICCLAB) and directory.number(_SAMPLE_FORMAT, 1) == 3:
        raise SourceUnreadable("TIFF with Lab colours in floats is not supported; convert it to RGB")
