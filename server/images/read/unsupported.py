"""Kinds of files that are not supported, recognised by their first bytes, so that the error can name them."""

from server.images.read import heif
from server.images.read.tiff import raw_message

_RAW = (
    (0, b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (0, b"IIRO", "Olympus ORF"),
    (0, b"IIRS", "Olympus ORF"),
    (0, b"MMOR", "Olympus ORF"),
    (0, b"IIU\0", "Panasonic RW2"),
    (0, b"FOVb", "Sigma X3F"),
    (0, b"\0MRM", "Minolta MRW"),
    (6, b"HEAPCCDR", "Canon CRW"),
    (8, b"CR\2\0", "Canon CR2"),
    (8, b"IIII", "Phase One IIQ"),
    (8, b"MMMM", "Phase One IIQ"),
    (0, b"ARRI", "ARRI"),
    (0, b"NOKIARAW", "Nokia"),
)
_OTHERS = (
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\0\0\2\0", "a cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"#?RGBE", "a Radiance HDR picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\xabKTX", "a KTX texture"),
    (0, b"\x8aMNG", "an MNG animation"),
    (0, b"\x8bJNG", "a JNG picture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"FLIF", "a FLIF picture"),
    (0, b"BPG\xfb", "a BPG picture"),
    (0, b"II\xbc", "a JPEG XR picture"),
    (0, b"SDPX", "a DPX picture"),
    (0, b"XPDS", "a DPX picture"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (8, b"AVI ", "a video (AVI)"),
)
_RAW_BRANDS = {"crx ": "Canon CR3"}


def message(data: bytes) -> str | None:
    """An error message that names the kind of file; None if the kind is unknown."""
    raw = next((kind for place, magic, kind in _RAW if data[place : place + len(magic)] == magic), None)
    if heif.is_bmff(data):
        brands = heif.brands(data)
        raw = next((kind for brand, kind in _RAW_BRANDS.items() if brand in brands), raw)
        if raw is None:
            return _bmff_message(data)
    if raw is not None:
        return raw_message(raw)
    kind = next((kind for place, magic, kind in _OTHERS if data[place : place + len(magic)] == magic), None)
    return None if kind is None else f"the file is {kind}, which is not supported"


def _bmff_message(data: bytes) -> str:
    if not heif.is_heif(data):
        return "the file is a video, or another kind of MPEG-4 file, which is not supported"
    coded = heif.codec(data)
    inside = heif.OTHER_CODECS.get(coded or "")
    if inside is None:
        return "the file is HEIF without a picture of a supported kind: HEVC (HEIC) or AV1 (AVIF)"
    return f"the file is HEIF with {inside} in it, which is not supported: only HEVC (HEIC) and AV1 (AVIF) are"
