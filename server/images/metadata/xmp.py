"""XMP packets (ISO 16684-1), XML texts in picture files: what must be changed in them for the result.

Only values that would be wrong are changed. All other bytes stay, prefixes too: many readers look for prefixes instead
of namespaces.
"""

import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from server.images.metadata.placement import Box, Placement
from server.images.metadata.xmp_packet import Node, Packet, Value, parse

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_RIGHTS = "http://ns.adobe.com/xap/1.0/rights/"
_PREFIXES = {"x": "adobe:ns:meta/", "rdf": RDF, "dc": _DC, "xmpRights": _RIGHTS}
_KEPT = {f"{{{_DC}}}creator", f"{{{_DC}}}rights"}

MAX_BYTES = 60_000
"""A JPEG segment holds 65,533 bytes; longer XMP needs the extended form, which few programs write or read."""

_TIFF, _EXIF, XMP = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/xap/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_PANO, _CAMERA = "http://ns.google.com/photos/1.0/panorama/", "http://ns.google.com/photos/1.0/camera/"
_IMAGE, _AUDIO = "http://ns.google.com/photos/1.0/image/", "http://ns.google.com/photos/1.0/audio/"
_DEPTH, _DEVICE = "http://ns.google.com/photos/1.0/depthmap/", "http://ns.google.com/photos/dd/1.0/"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_GAIN_MAP, _APPLE_GAIN_MAP = "http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/"
_APPLE_DEPTH, _APPLE_PIXELS = "http://ns.apple.com/depthData/1.0/", "http://ns.apple.com/pixeldatainfo/1.0/"
_REGIONS, _AREA = "http://www.metadataworkinggroup.com/schemas/regions/", "http://ns.adobe.com/xmp/sType/Area#"
_DIMENSIONS, IPTC = "http://ns.adobe.com/xap/1.0/sType/Dimensions#", "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_DJI, _XIAOMI = "http://www.dji.com/drone-dji/1.0/", "http://ns.xiaomi.com/photos/1.0/camera/"
USUAL = {
    "tiff": _TIFF,
    "exif": _EXIF,
    "xmp": XMP,
    "xap": XMP,
    "xmpNote": _NOTE,
    "GPano": _PANO,
    "GCamera": _CAMERA,
    "Camera": _CAMERA,
    "GImage": _IMAGE,
    "GAudio": _AUDIO,
    "GDepth": _DEPTH,
    "Container": _CONTAINER,
    "hdrgm": _GAIN_MAP,
    "rdf": RDF,
}
"""The namespaces of these prefixes in packets that do not declare them."""

GAIN_MAP, DEPTH, VIDEO = "gain map (HDR)", "depth map", "video of a motion photo"
SOUND, OTHER_EYE, EXTENDED = "sound", "picture for the other eye", "XMP beyond one packet"
_POINTING: tuple[tuple[str, str], ...] = (
    (_GAIN_MAP, GAIN_MAP),
    (_APPLE_GAIN_MAP, GAIN_MAP),
    (_DEPTH, DEPTH),
    (_DEVICE, DEPTH),
    (_APPLE_DEPTH, DEPTH),
    (_IMAGE, OTHER_EYE),
    (_AUDIO, SOUND),
)
"""How the namespaces of data elsewhere in the source's file begin, and the name of these data in notes."""
_GONE = (_CONTAINER, _APPLE_PIXELS, _XIAOMI)
"""Namespaces that only list such data."""
_SEMANTICS = {"GainMap": GAIN_MAP, "Depth": DEPTH, "Confidence": DEPTH, "MotionPhoto": VIDEO}
"""Values of Semantic, for items in Google's container."""
_MOTION = ("MotionPhoto", "MicroVideo")

_SIZES = {(_TIFF, "ImageWidth"): 0, (_TIFF, "ImageLength"): 1, (_EXIF, "PixelXDimension"): 0}
_SIZES |= {(_EXIF, "PixelYDimension"): 1}
_LENGTHS = {
    (_DJI, "CalibratedOpticalCenterX"): 0,
    (_DJI, "CalibratedOpticalCenterY"): 1,
    (_DJI, "CalibratedFocalLength"): 0,
}
_IPTC_LENGTHS = {"rbX": 0, "rbW": 0, "rbRx": 0, "rbY": 1, "rbH": 1}
_PANO_BOXES = (
    ("Left", "Top", "Width", "Height", "LargestValidInteriorRect{}", "CroppedAreaImage{}Pixels"),
    ("LeftPixels", "TopPixels", "ImageWidthPixels", "ImageHeightPixels", "CroppedArea{}", "FullPano{}Pixels"),
)
"""Boxes of a panorama: four names, a pattern that completes them, and the pattern of the size that contains the box."""


def orientation(packet: bytes) -> int:
    """1 … 8 as in tiff:Orientation; 1 if it is missing."""
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])\b", packet)
    return int(found[1]) if found else 1


def upright(packet: bytes, placement: Placement) -> bytes | None:
    """The packet for the result: upright, with its sizes and positions in pixels, and without references to other data
    in the source's file. All else stays byte for byte. None if the packet is damaged."""
    parsed = parse(packet, USUAL)
    if parsed is None:
        return None
    _drop_pointers(parsed)
    _scale(parsed, placement)
    _scale_panorama(parsed, placement)
    _scale_regions(parsed, placement)
    return parsed.result()


def straight(packet: bytes, size: tuple[int, int]) -> bytes | None:
    """The packet for a picture of that size that is stored upright; nothing else is changed. None if it is damaged."""
    parsed = parse(packet, USUAL)
    if parsed is None:
        return None
    _scale(parsed, Placement(1, size, size))
    return parsed.result()


def as_srgb(packet: bytes) -> bytes:
    """The packet for a picture whose colours were converted to sRGB."""
    parsed = parse(packet, USUAL)
    if parsed is None:
        return packet
    for value in parsed.values():
        if value.name == (_EXIF, "ColorSpace"):
            parsed.replace(value, 1)
    return parsed.result()


def is_sound(packet: bytes) -> bool:
    return parse(packet, USUAL) is not None


def lost(packet: bytes) -> list[str]:
    """Names of the data elsewhere in the source's file whose references `upright` drops."""
    parsed = parse(packet, USUAL)
    if parsed is None:
        return []
    found = []
    for space, local, text in _names(parsed):
        found += [words for start, words in _POINTING if space.startswith(start)]
        if local == "Semantic" and text in _SEMANTICS:
            found.append(_SEMANTICS[text])
        if local in _MOTION and text == "1":
            found.append(VIDEO)
        if (space, local) == (_NOTE, "HasExtendedXMP"):
            found.append(EXTENDED)
    return list(dict.fromkeys(found))


def with_description(
    packet: bytes | None, added: bytes, change: Callable[[Packet], None] = lambda parsed: None
) -> bytes:
    """The packet, after `change`, with another element rdf:Description, which declares its own prefixes. None and
    damaged packets give one that has nothing else."""
    parsed = parse(packet, USUAL) if packet else None
    nodes = [] if parsed is None else [each for each in parsed.root.all() if each.name == (RDF, "RDF")]
    places = [each.end_tag for each in nodes if each.end_tag >= 0]
    if parsed is None or not places:
        return _BEGIN + added + _END
    change(parsed)
    parsed.insert(places[0], added)
    return parsed.result()


_BEGIN = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{RDF}">'
).encode()
_END = b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'


def with_gain_map(packet: bytes | None, size_bytes: int) -> bytes:
    """The packet of a JPEG file whose next picture is a gain map of that size (Google's "Ultra HDR image format" 1.1,
    section "XMP attributes")."""
    items = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="{semantic}" Item:Mime="image/jpeg"{length}/>'
        "</rdf:li>"
        for semantic, length in (("Primary", ""), ("GainMap", f' Item:Length="{size_bytes}"'))
    )
    spaces = (("rdf", RDF), ("hdrgm", _GAIN_MAP), ("Container", _CONTAINER), ("Item", f"{_CONTAINER}item/"))
    declared = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in spaces)
    return with_description(
        packet,
        f'<rdf:Description{declared} rdf:about="" hdrgm:Version="1.0"><Container:Directory><rdf:Seq>{items}</rdf:Seq>'
        "</Container:Directory></rdf:Description>".encode(),
    )


def _names(parsed: Packet) -> Iterator[tuple[str, str, str]]:
    for node in parsed.root.all():
        yield *node.name, ""
    for value in parsed.values():
        yield *value.name, value.text


def _drop_pointers(parsed: Packet) -> None:
    spaces = (*(start for start, _ in _POINTING), *_GONE)

    def points(name: tuple[str, str]) -> bool:
        return (
            name[0].startswith(spaces)
            or name[1].startswith(_MOTION)
            or name in ((_NOTE, "HasExtendedXMP"), (XMP, "Thumbnails"))
        )

    for node in parsed.root.all():
        if points(node.name):
            parsed.drop(node.start, node.end)
        for value in node.attributes:
            if points(value.name):
                parsed.drop(*value.outer)


def _scale(parsed: Packet, placement: Placement) -> None:
    for value in parsed.values():
        if value.name == (_TIFF, "Orientation"):
            parsed.replace(value, 1)
        elif value.name in _SIZES:
            parsed.replace(value, placement.after[_SIZES[value.name]])
        elif value.name in _LENGTHS:
            scale = placement.scale[_LENGTHS[value.name]]
            _scale_number(parsed, value, scale, exact=True)
        elif value.name in ((_EXIF, "FocalPlaneXResolution"), (_EXIF, "FocalPlaneYResolution")):
            _scale_rational(parsed, value, placement)
    for node in parsed.root.all():
        if node.name in ((_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation")):
            _scale_subject(parsed, node, placement)


def _scale_number(parsed: Packet, value: Value, scale: float, *, exact: bool = False) -> None:
    number = _number(value)
    if number is not None:
        parsed.replace(value, f"{number * scale:.6f}".rstrip("0").rstrip(".") if exact else round(number * scale))


def _number(value: Value) -> float | None:
    try:
        number = float(value.text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None


def _scale_rational(parsed: Packet, value: Value, placement: Placement) -> None:
    found = re.fullmatch(r"\s*(\d{1,15})/(\d{1,15})\s*", value.text)
    axis = int((value.name[1] == "FocalPlaneYResolution") != placement.turns)
    if found:
        parsed.replace(value, f"{round(int(found[1]) * placement.scale[axis])}/{found[2]}")


def _scale_subject(parsed: Packet, node: Node, placement: Placement) -> None:
    """A sequence of two numbers (a point), three (a circle) or four (centre and size of a box)."""
    items = [each for each in parsed.values(node) if each.name == (RDF, "li")]
    numbers = [_number(each) for each in items]
    if not 2 <= len(numbers) <= 4 or None in numbers:
        return
    for value, new in zip(items, placement.subject([each or 0.0 for each in numbers]), strict=True):
        parsed.replace(value, new)


def _scale_panorama(parsed: Packet, placement: Placement) -> None:
    values = {value.name[1]: value for value in parsed.values() if value.name[0] == _PANO}
    numbers = {name: _number(value) for name, value in values.items()}

    def get(name: str) -> float:
        return numbers.get(name) or 0.0

    def put(name: str, number: float) -> None:
        if numbers.get(name) is not None:
            parsed.replace(values[name], round(number))

    for *names, part, whole in _PANO_BOXES:
        called = [part.format(name) for name in names]
        size = get(whole.format("Width")), get(whole.format("Height"))
        within = placement.of(size) if min(size) >= 1 else placement
        left, top, width, height = (get(name) for name in called)
        box: Box = left, top, width or size[0], height or size[1]
        for name, number in zip(called, within.box(box), strict=True):
            put(name, number)
    size = get("FullPanoWidthPixels"), get("FullPanoHeightPixels")
    if min(size) >= 1:
        width, height = placement.of(size).after
        put("FullPanoWidthPixels", width)
        put("FullPanoHeightPixels", height)


def _scale_regions(parsed: Packet, placement: Placement) -> None:
    """Faces and other regions, as the Metadata Working Group (2010) and IPTC define them."""
    values = list(parsed.values())
    applied = {
        value.name[1]: value
        for value in values
        if value.name[0] == _DIMENSIONS and value.parent.under((_REGIONS, "AppliedToDimensions"))
    }
    stated = tuple(_number(applied[name]) if name in applied else None for name in ("w", "h"))
    # Some programs state regions in the upright picture.
    shown = stated == placement.upright and stated != placement.before
    within = Placement(1, placement.upright, placement.after) if shown else placement
    if "unit" not in applied or applied["unit"].text == "pixel":
        for name, number in zip(("w", "h"), placement.after, strict=True):
            if name in applied:
                parsed.replace(applied[name], number)
    areas: dict[int, dict[str, Value]] = {}
    for value in values:
        if value.name[0] == _AREA:
            areas.setdefault(value.parent.start, {})[value.name[1]] = value
    for area in areas.values():
        _scale_area(parsed, area, within)
    boundaries = [unit.parent for unit in values if unit.name == (IPTC, "rbUnit") and unit.text == "pixel"]
    for boundary in {each.start: each for each in boundaries}.values():
        _scale_boundary(parsed, boundary, placement)


def _scale_area(parsed: Packet, area: dict[str, Value], placement: Placement) -> None:
    numbers: dict[str, float | None] = {name: _number(area[name]) for name in ("x", "y", "w", "h", "d") if name in area}
    x, y = numbers.get("x"), numbers.get("y")
    if x is None or y is None:
        return
    pixels = "unit" in area and area["unit"].text == "pixel"
    if not pixels:
        placement = Placement(placement.orientation, (1, 1), (1, 1))
    w, h = numbers.get("w") or 0.0, numbers.get("h") or 0.0
    left, top, width, height = placement.box((x - w / 2, y - h / 2, w, h))
    new = {"x": left + width / 2, "y": top + height / 2, "w": width, "h": height}
    new["d"] = (numbers.get("d") or 0.0) * placement.scale[0]
    for name, number in new.items():
        if numbers.get(name) is not None and number != numbers[name]:
            parsed.replace(area[name], f"{number:.6f}".rstrip("0").rstrip("."))


def _scale_boundary(parsed: Packet, node: Node, placement: Placement) -> None:
    """An IPTC region in pixels. Its numbers are siblings of its unit; those of its corners are deeper."""
    for value in parsed.values(node):
        if value.name[0] == IPTC and value.name[1] in _IPTC_LENGTHS:
            _scale_number(parsed, value, placement.scale[_IPTC_LENGTHS[value.name[1]]])


def rights(packet: bytes) -> bytes | None:
    """A packet of author and rights alone (dc:creator, dc:rights, xmpRights); None if there are none."""
    if b"<!" in packet:  # a document type, which XMP forbids and which could define endless entities
        return None
    try:
        source = ElementTree.fromstring(packet.strip(b"\0"))
    except (ElementTree.ParseError, ValueError, LookupError):  # also for encodings that Python or expat lacks
        return None
    for prefix, uri in _PREFIXES.items():
        ElementTree.register_namespace(prefix, uri)
    kept = ElementTree.Element(f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    for description in _descriptions(source):
        kept.attrib.update({name: value for name, value in description.attrib.items() if _is_rights(name)})
        kept.extend(child for child in description if _is_rights(child.tag))
    if len(kept.attrib) == 1 and not len(kept):
        return None
    root = ElementTree.Element("{adobe:ns:meta/}xmpmeta")
    ElementTree.SubElement(root, f"{{{RDF}}}RDF").append(kept)
    try:
        body: bytes = ElementTree.tostring(root, encoding="utf-8")
    except RecursionError:  # thousands of nested elements
        return None
    return b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>' + body + b'<?xpacket end="w"?>'


def _descriptions(source: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """In document order, but none inside of another's rights, which are kept with all that they contain."""
    waiting = [source]
    while waiting:
        element = waiting.pop()
        if element.tag == f"{{{RDF}}}Description":
            yield element
        waiting.extend(child for child in reversed(element) if not _is_rights(child.tag))


def _is_rights(name: str) -> bool:
    return name in _KEPT or name.startswith(f"{{{_RIGHTS}}}")
