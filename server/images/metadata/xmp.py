"""XMP packets (ISO 16684-1), an XML text that travels in picture files: what must change in them with the picture.

Only what is wrong of the new picture is changed, and all else stays letter by letter, prefixes too: many readers look
for them, not for namespaces.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.parsers import expat

from server.images.metadata.placement import Box, Change

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_RIGHTS = "http://ns.adobe.com/xap/1.0/rights/"
_PREFIXES = {"x": "adobe:ns:meta/", "rdf": _RDF, "dc": _DC, "xmpRights": _RIGHTS}
_KEPT = {f"{{{_DC}}}creator", f"{{{_DC}}}rights"}

MAX_BYTES = 60_000
"""A JPEG segment holds 65,533 bytes; what is longer needs the extended form, which hardly anything writes or reads."""

_TIFF, _EXIF, _XMP = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/xap/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_PANO, _CAMERA = "http://ns.google.com/photos/1.0/panorama/", "http://ns.google.com/photos/1.0/camera/"
_IMAGE, _AUDIO = "http://ns.google.com/photos/1.0/image/", "http://ns.google.com/photos/1.0/audio/"
_DEPTH, _DEVICE = "http://ns.google.com/photos/1.0/depthmap/", "http://ns.google.com/photos/dd/1.0/"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_GAIN_MAP, _APPLE_GAIN_MAP = "http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/"
_APPLE_DEPTH, _APPLE_PIXELS = "http://ns.apple.com/depthData/1.0/", "http://ns.apple.com/pixeldatainfo/1.0/"
_REGIONS, _AREA = "http://www.metadataworkinggroup.com/schemas/regions/", "http://ns.adobe.com/xmp/sType/Area#"
_DIMENSIONS, _IPTC = "http://ns.adobe.com/xap/1.0/sType/Dimensions#", "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_DJI, _XIAOMI = "http://www.dji.com/drone-dji/1.0/", "http://ns.xiaomi.com/photos/1.0/camera/"
_USUAL = {
    "tiff": _TIFF,
    "exif": _EXIF,
    "xmp": _XMP,
    "xap": _XMP,
    "xmpNote": _NOTE,
    "GPano": _PANO,
    "GCamera": _CAMERA,
    "Camera": _CAMERA,
    "GImage": _IMAGE,
    "GAudio": _AUDIO,
    "GDepth": _DEPTH,
    "Container": _CONTAINER,
    "hdrgm": _GAIN_MAP,
    "rdf": _RDF,
}
"""What prefixes stand for where a packet does not say so."""

GAIN_MAP, DEPTH, FILM = "gain map (HDR)", "depth map", "film of a motion photo"
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
"""Namespaces of what lies elsewhere in the old file, by how they begin, and the words for it."""
_GONE = (_CONTAINER, _APPLE_PIXELS, _XIAOMI)
"""Those that only list what lies there."""
_SEMANTICS = {"GainMap": GAIN_MAP, "Depth": DEPTH, "Confidence": DEPTH, "MotionPhoto": FILM}
"""Of items in Google's container."""
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
"""Boxes of a panorama, and the whole that each lies in."""


def orientation(packet: bytes) -> int:
    """1 … 8 as tiff:Orientation says; 1 where it doesn't."""
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])\b", packet)
    return int(found[1]) if found else 1


@dataclass
class _Value:
    """A property's text: an attribute's, or an element's that holds nothing else."""

    name: tuple[str, str]
    """Namespace and name."""
    text: str
    start: int
    end: int
    """Of the text, in the packet."""
    outer: tuple[int, int]
    """Of the property with all that belongs to it."""
    parent: "_Node"


@dataclass
class _Node:
    name: tuple[str, str]
    start: int
    inside: int
    """Where its start tag has ended."""
    spaces: dict[str, str]
    parent: "_Node | None" = None
    end: int = 0
    end_tag: int = 0
    attributes: list[_Value] = field(default_factory=list)
    children: "list[_Node]" = field(default_factory=list)

    def all(self) -> "Iterator[_Node]":
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def under(self, *names: tuple[str, str]) -> bool:
        """It is, or is inside of, an element of one of these names."""
        node: _Node | None = self
        while node is not None:
            if node.name in names:
                return True
            node = node.parent
        return False


@dataclass
class _Packet:
    data: bytes
    root: _Node
    edits: list[tuple[int, int, bytes]] = field(default_factory=list)

    def values(self, within: _Node | None = None) -> Iterator[_Value]:
        for node in (within or self.root).all():
            yield from node.attributes
            if not node.children and node.inside <= node.end_tag:
                text = self.data[node.inside : node.end_tag].decode("utf-8", "replace")
                yield _Value(node.name, text, node.inside, node.end_tag, (node.start, node.end), node.parent or node)

    def replace(self, value: _Value, text: object) -> None:
        if value.start < value.end:
            self.edits.append((value.start, value.end, str(text).encode()))

    def drop(self, start: int, end: int) -> None:
        self.edits.append((start, end, b""))

    def result(self) -> bytes:
        """With what is dropped counting before what is changed inside of it."""
        done, place = b"", 0
        for start, end, text in sorted(self.edits, key=lambda edit: (edit[0], -edit[1])):
            if start >= place:
                done, place = done + self.data[place:start] + text, end
        return done + self.data[place:]


_ATTRIBUTE = re.compile(rb"\s([^\s=<>/\"']+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_TAG = re.compile(rb"<[^\s<>/\"']+(?:\s+[^\s=<>/\"']+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")


def _parsed(packet: bytes) -> _Packet | None:
    """None for what is no sound XML, or has a document type, which XMP forbids and which entities could blow up."""
    data = packet.rstrip(b"\0")
    if b"\0" in data or b"<!DOCTYPE" in data:
        return None
    parser = expat.ParserCreate()
    top = _Node(("", ""), 0, 0, dict(_USUAL), end=len(data), end_tag=len(data))
    open_nodes = [top]
    broken: list[int] = []

    def begin(_: str, __: dict[str, str]) -> None:
        start, parent = parser.CurrentByteIndex, open_nodes[-1]
        tag = _TAG.match(data, start)
        if tag is None:
            broken.append(start)
            open_nodes.append(parent)
            return
        found = [(each, each[1].decode("utf-8", "replace")) for each in _ATTRIBUTE.finditer(tag[0])]
        declared = {name[6:]: _text(each) for each, name in found if name.startswith("xmlns:")}
        spaces = {**parent.spaces, **declared} if declared else parent.spaces
        name = re.split(rb"[\s/>]", tag[0][1:], maxsplit=1)[0].decode("utf-8", "replace")
        node = _Node(_resolved(name, spaces), start, tag.end(), spaces, parent)
        for each, called in found:
            if not called.startswith("xmlns"):
                part = 2 if each[2] is not None else 3
                outer = start + each.start(), start + each.end()
                inner = start + each.start(part), start + each.end(part)
                node.attributes.append(_Value(_resolved(called, spaces), _text(each), *inner, outer, node))
        parent.children.append(node)
        open_nodes.append(node)

    def finish(_: str) -> None:
        node, place = open_nodes.pop(), parser.CurrentByteIndex
        if place == node.start:  # <it is="empty"/>
            node.end, node.end_tag = node.inside, -1
        else:
            node.end_tag, node.end = place, data.find(b">", place) + 1

    parser.StartElementHandler, parser.EndElementHandler = begin, finish
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):  # the latter two: encodings that Python or expat lacks
        return None
    return None if broken else _Packet(data, top)


def _text(attribute: "re.Match[bytes]") -> str:
    return (attribute[2] if attribute[2] is not None else attribute[3]).decode("utf-8", "replace")


def _resolved(name: str, spaces: dict[str, str]) -> tuple[str, str]:
    prefix, colon, local = name.partition(":")
    return (spaces.get(prefix, prefix), local) if colon else ("", name)


def upright(packet: bytes, change: Change) -> bytes | None:
    """As of the result: upright, with its sizes, and what else is measured in pixels; without what points to other
    things in the old file. The rest stays letter by letter. None where the packet is damaged."""
    parsed = _parsed(packet)
    if parsed is None:
        return None
    _drop_pointers(parsed)
    _scale(parsed, change)
    _scale_panorama(parsed, change)
    _scale_regions(parsed, change)
    return parsed.result()


def straight(packet: bytes, size: tuple[int, int]) -> bytes | None:
    """As of a picture of that size that stands as it is stored, and nothing else changed. None likewise."""
    parsed = _parsed(packet)
    if parsed is None:
        return None
    _scale(parsed, Change(1, size, size))
    return parsed.result()


def as_srgb(packet: bytes) -> bytes:
    """As of a picture whose colours have become sRGB's."""
    parsed = _parsed(packet)
    if parsed is None:
        return packet
    for value in parsed.values():
        if value.name == (_EXIF, "ColorSpace"):
            parsed.replace(value, 1)
    return parsed.result()


def is_sound(packet: bytes) -> bool:
    return _parsed(packet) is not None


def lost(packet: bytes) -> list[str]:
    """What lies elsewhere in the file, in words, and `upright` drops the pointers to."""
    parsed = _parsed(packet)
    if parsed is None:
        return []
    found = []
    for space, local, text in _names(parsed):
        found += [words for start, words in _POINTING if space.startswith(start)]
        if local == "Semantic" and text in _SEMANTICS:
            found.append(_SEMANTICS[text])
        if local in _MOTION and text == "1":
            found.append(FILM)
        if (space, local) == (_NOTE, "HasExtendedXMP"):
            found.append(EXTENDED)
    return list(dict.fromkeys(found))


def _names(parsed: _Packet) -> Iterator[tuple[str, str, str]]:
    for node in parsed.root.all():
        yield *node.name, ""
    for value in parsed.values():
        yield *value.name, value.text


def _drop_pointers(parsed: _Packet) -> None:
    spaces = (*(start for start, _ in _POINTING), *_GONE)

    def points(name: tuple[str, str]) -> bool:
        return (
            name[0].startswith(spaces)
            or name[1].startswith(_MOTION)
            or name in ((_NOTE, "HasExtendedXMP"), (_XMP, "Thumbnails"))
        )

    for node in parsed.root.all():
        if points(node.name):
            parsed.drop(node.start, node.end)
        for value in node.attributes:
            if points(value.name):
                parsed.drop(*value.outer)


def _scale(parsed: _Packet, change: Change) -> None:
    for value in parsed.values():
        if value.name == (_TIFF, "Orientation"):
            parsed.replace(value, 1)
        elif value.name in _SIZES:
            parsed.replace(value, change.after[_SIZES[value.name]])
        elif value.name in _LENGTHS:
            scale = change.scale[_LENGTHS[value.name]]
            _change(parsed, value, scale, exact=True)
        elif value.name in ((_EXIF, "FocalPlaneXResolution"), (_EXIF, "FocalPlaneYResolution")):
            _scale_rational(parsed, value, change)
    for node in parsed.root.all():
        if node.name in ((_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation")):
            _scale_subject(parsed, node, change)


def _change(parsed: _Packet, value: _Value, scale: float, *, exact: bool = False) -> None:
    number = _number(value)
    if number is not None:
        parsed.replace(value, f"{number * scale:.6f}".rstrip("0").rstrip(".") if exact else round(number * scale))


def _number(value: _Value) -> float | None:
    try:
        number = float(value.text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None


def _scale_rational(parsed: _Packet, value: _Value, change: Change) -> None:
    found = re.fullmatch(r"\s*(\d+)/(\d+)\s*", value.text)
    axis = int((value.name[1] == "FocalPlaneYResolution") != change.turns)
    if found:
        parsed.replace(value, f"{round(int(found[1]) * change.scale[axis])}/{found[2]}")


def _scale_subject(parsed: _Packet, node: _Node, change: Change) -> None:
    """A sequence of two (a point), three (a circle) or four numbers (a box around its middle)."""
    items = [each for each in parsed.values(node) if each.name == (_RDF, "li")]
    numbers = [_number(each) for each in items]
    if not 2 <= len(numbers) <= 4 or None in numbers:
        return
    for value, new in zip(items, change.subject([each or 0.0 for each in numbers]), strict=True):
        parsed.replace(value, new)


def _scale_panorama(parsed: _Packet, change: Change) -> None:
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
        within = change.of(size) if min(size) >= 1 else change
        left, top, width, height = (get(name) for name in called)
        box: Box = left, top, width or size[0], height or size[1]
        for name, number in zip(called, within.box(box), strict=True):
            put(name, number)
    size = get("FullPanoWidthPixels"), get("FullPanoHeightPixels")
    if min(size) >= 1:
        width, height = change.of(size).after
        put("FullPanoWidthPixels", width)
        put("FullPanoHeightPixels", height)


def _scale_regions(parsed: _Packet, change: Change) -> None:
    """Faces and other regions: of the Metadata Working Group (2010), and of IPTC."""
    values = list(parsed.values())
    applied = {
        value.name[1]: value
        for value in values
        if value.name[0] == _DIMENSIONS and value.parent.under((_REGIONS, "AppliedToDimensions"))
    }
    stated = tuple(_number(applied[name]) if name in applied else None for name in ("w", "h"))
    # Some programs state regions of the picture as it is shown.
    shown = stated == change.upright and stated != change.before
    within = Change(1, change.upright, change.after) if shown else change
    if "unit" not in applied or applied["unit"].text == "pixel":
        for name, number in zip(("w", "h"), change.after, strict=True):
            if name in applied:
                parsed.replace(applied[name], number)
    areas: dict[int, dict[str, _Value]] = {}
    for value in values:
        if value.name[0] == _AREA:
            areas.setdefault(value.parent.start, {})[value.name[1]] = value
    for area in areas.values():
        _scale_area(parsed, area, within)
    for unit in values:
        if unit.name == (_IPTC, "rbUnit") and unit.text == "pixel":
            _scale_boundary(parsed, unit.parent, change)


def _scale_area(parsed: _Packet, area: dict[str, _Value], change: Change) -> None:
    numbers: dict[str, float | None] = {name: _number(area[name]) for name in ("x", "y", "w", "h", "d") if name in area}
    x, y = numbers.get("x"), numbers.get("y")
    if x is None or y is None:
        return
    pixels = "unit" in area and area["unit"].text == "pixel"
    if not pixels:
        change = Change(change.orientation, (1, 1), (1, 1))
    w, h = numbers.get("w") or 0.0, numbers.get("h") or 0.0
    left, top, width, height = change.box((x - w / 2, y - h / 2, w, h))
    new = {"x": left + width / 2, "y": top + height / 2, "w": width, "h": height}
    new["d"] = (numbers.get("d") or 0.0) * change.scale[0]
    for name, number in new.items():
        if numbers.get(name) is not None and number != numbers[name]:
            parsed.replace(area[name], f"{number:.6f}".rstrip("0").rstrip("."))


def _scale_boundary(parsed: _Packet, node: _Node, change: Change) -> None:
    """Of an IPTC region in pixels: its numbers stand beside its unit, those of corners further inside."""
    for value in parsed.values(node):
        if value.name[0] == _IPTC and value.name[1] in _IPTC_LENGTHS:
            _change(parsed, value, change.scale[_IPTC_LENGTHS[value.name[1]]])


def rights(packet: bytes) -> bytes | None:
    """A packet that says who made the picture and who may use it (dc:creator, dc:rights, xmpRights), and no more; None
    where that is not said."""
    if b"<!" in packet:  # a document type, which XMP forbids and which entities could blow up
        return None
    try:
        source = ElementTree.fromstring(packet.strip(b"\0"))
    except (ElementTree.ParseError, ValueError, LookupError):  # the latter two: encodings that Python or expat lacks
        return None
    for prefix, uri in _PREFIXES.items():
        ElementTree.register_namespace(prefix, uri)
    kept = ElementTree.Element(f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    for description in source.iter(f"{{{_RDF}}}Description"):
        kept.attrib.update({name: value for name, value in description.attrib.items() if _is_rights(name)})
        kept.extend(child for child in description if _is_rights(child.tag))
    if len(kept.attrib) == 1 and not len(kept):
        return None
    root = ElementTree.Element("{adobe:ns:meta/}xmpmeta")
    ElementTree.SubElement(root, f"{{{_RDF}}}RDF").append(kept)
    try:
        body: bytes = ElementTree.tostring(root, encoding="utf-8")
    except RecursionError:  # thousands of elements in each other
        return None
    return b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>' + body + b'<?xpacket end="w"?>'


def _is_rights(name: str) -> bool:
    return name in _KEPT or name.startswith(f"{{{_RIGHTS}}}")
