"""XMP packets (ISO 16684-1), an XML text that travels in picture files: what must change in them with the picture."""

import re
from xml.etree import ElementTree

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_RIGHTS = "http://ns.adobe.com/xap/1.0/rights/"
_PREFIXES = {"x": "adobe:ns:meta/", "rdf": _RDF, "dc": _DC, "xmpRights": _RIGHTS}
_KEPT = {f"{{{_DC}}}creator", f"{{{_DC}}}rights"}

MAX_BYTES = 60_000
"""A JPEG segment holds 65,533 bytes; what is longer needs the extended form, which hardly anything writes or reads."""


def orientation(packet: bytes) -> int:
    """1 … 8 as tiff:Orientation says; 1 where it doesn't."""
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])\b", packet)
    return int(found[1]) if found else 1


def upright(packet: bytes, width: int, height: int) -> bytes:
    """As of a picture of that size that stands as it is stored. The rest stays letter by letter."""
    for name, value in (
        (b"tiff:Orientation", 1),
        (b"tiff:ImageWidth", width),
        (b"tiff:ImageLength", height),
        (b"exif:PixelXDimension", width),
        (b"exif:PixelYDimension", height),
    ):
        packet = re.sub(rb"(" + name + rb"(?:=[\"']|>)\s*)\d+", rb"\g<1>%d" % value, packet)
    # The thumbnail is the old picture.
    return re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", packet, flags=re.DOTALL)


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
