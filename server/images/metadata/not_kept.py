"""What of the source's file is not kept in the result, as notes for the caller."""

from server.images.metadata import xmp
from server.images.metadata.metadata import Metadata
from server.images.read import gif, heif, jpeg, tiff
from server.images.read.gain_map import GainMap
from server.images.read.sniff import sniff
from server.job.job import Params

_GAIN_MAP_SEGMENT = b"urn:iso:std:iso:ts:21496:-1\0"
"""ISO 21496-1, in an APP2 segment of JPEG."""
_AUXILIARIES = (
    ("hdrgainmap", xmp.GAIN_MAP),
    ("tmap", xmp.GAIN_MAP),
    ("depth", xmp.DEPTH),
    ("disparity", xmp.DEPTH),
    ("auxid:2", xmp.DEPTH),
    ("matte", "matte"),
)
"""Parts of the URNs of auxiliary images in HEIF files, and the name of each in notes."""
_MOST_KEYWORDS = 5


def not_kept(
    data: bytes, metadata: Metadata, params: Params, frames: int, beside: GainMap | None, *, kept: bool
) -> tuple[str, ...]:
    """Short sentences without a full stop. `frames`: the number of frames in the result; `beside`: the source's gain
    map, and whether it is `kept`."""
    found = [*_pages(data, frames)]
    lost = list(dict.fromkeys([*_beside(data, beside), *(xmp.lost(metadata.xmp) if metadata.xmp else [])]))
    for each in lost:
        if each == xmp.GAIN_MAP and sniff(data) == "image/jpeg" and beside is None:
            found.append("the source's gain map (HDR) is missing or damaged: it was read as a plain JPEG")
        elif each != xmp.EXTENDED and not (kept and each == xmp.GAIN_MAP):
            found.append(f"the source's {each} is not in the result")
    if params.metadata == "keep" and not params.sweep:
        found += _metadata(metadata, params)
    return tuple(found)


def _pages(data: bytes, frames: int) -> list[str]:
    kind = sniff(data)
    if kind == "image/tiff":
        found = tiff.look(data)
        return [f"page {found.page} of {found.pages}"] if found.pages > 1 else []
    if frames == 1 and kind == "image/gif" and (count := len(gif.read(data).frames)) > 1:
        return [f"frame 1 of {count}"]
    if kind in ("image/heic", "image/avif") and (count := heif.pictures(data)) > 1:
        return [f"the main picture of {count}"]
    return []


def _beside(data: bytes, beside: GainMap | None) -> list[str]:
    """Data beside the picture that XMP does not mention."""
    kind = sniff(data)
    if kind == "image/jpeg":
        found = jpeg.look(data)
        return [xmp.GAIN_MAP] if beside or jpeg.application(data, found, 2, _GAIN_MAP_SEGMENT) else []
    if kind in ("image/heic", "image/avif"):
        urns = heif.auxiliaries(data)
        return [words for part, words in _AUXILIARIES if any(part in urn for urn in urns)]
    return []


def _metadata(metadata: Metadata, params: Params) -> list[str]:
    found = []
    if metadata.xmp is not None and xmp.EXTENDED in xmp.lost(metadata.xmp):
        found.append("the source's XMP beyond one packet is not in the result")
    if metadata.xmp is not None and not xmp.is_sound(metadata.xmp):
        found.append("the source's XMP is damaged, and not in the result")
    names = list(dict.fromkeys(metadata.texts.keywords_without_place(params.format)))
    if names:
        shown = ", ".join(names[:_MOST_KEYWORDS]) + (", …" if len(names) > _MOST_KEYWORDS else "")
        found.append(f"{params.format} can't hold the source's texts ({shown})")
    return found
