"""XMP that goes through us."""

from xml.etree import ElementTree

import pytest

from server.images.metadata.placement import Change
from server.images.metadata.xmp import orientation, rights, upright

ATTRIBUTES = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 tiff:Orientation="6" exif:PixelXDimension="48" exif:PixelYDimension="32" xmpRights:Marked="True" xmp:Rating="5"/>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""

ELEMENTS = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<tiff:Orientation>3</tiff:Orientation>
<xmp:Thumbnails><rdf:Alt><rdf:li>/9j/4AAQ</rdf:li></rdf:Alt></xmp:Thumbnails>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Sommer</rdf:li></rdf:Alt></dc:title>
<dc:creator><rdf:Seq><rdf:li>Zoë</rdf:li></rdf:Seq></dc:creator>
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">© Zoë</rdf:li></rdf:Alt></dc:rights>
</rdf:Description></rdf:RDF></x:xmpmeta>""".encode()


@pytest.mark.parametrize(("packet", "expected"), [(ATTRIBUTES, 6), (ELEMENTS, 3), (b"<x/>", 1), (b"", 1)])
def test_the_orientation_is_found_in_either_form(packet: bytes, expected: int) -> None:
    assert orientation(packet) == expected


def test_only_what_belongs_to_the_old_picture_changes() -> None:
    straight = upright(ATTRIBUTES, Change(6, (48, 32), (1280, 1920)))
    expected = ATTRIBUTES.replace(b'Orientation="6"', b'Orientation="1"')
    expected = expected.replace(b'XDimension="48"', b'XDimension="1280"').replace(
        b'YDimension="32"', b'YDimension="1920"'
    )
    assert straight == expected
    other = upright(ELEMENTS, Change(1, (5, 5), (10, 10)))
    assert other is not None and orientation(other) == 1 and b"/9j/4AAQ" not in other and b"Sommer" in other
    ElementTree.fromstring(other)


def test_rights_are_kept_and_nothing_else() -> None:
    kept = rights(ELEMENTS)
    assert kept is not None
    assert "© Zoë".encode() in kept and b"Sommer" not in kept and b"Orientation" not in kept
    ElementTree.fromstring(kept)
    marked = rights(ATTRIBUTES)
    assert marked is not None and b'xmpRights:Marked="True"' in marked and b"Rating" not in marked


@pytest.mark.parametrize(
    "packet", [b"", b"<x", ELEMENTS[:200], b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>', b"<x/>"]
)
def test_where_there_are_none_nothing_is_kept(packet: bytes) -> None:
    assert rights(packet) is None


@pytest.mark.parametrize(
    "packet",
    [
        b'<?xml version="1.0" encoding="gbk"?><x/>',
        b'<?xml version="1.0" encoding="utf-32"?><x/>',
        b'<?xml version="1.0" encoding="nonsense"?><x/>',
        ELEMENTS.replace("© Zoë".encode(), b"<a>" * 5000 + b"</a>" * 5000),
    ],
)
def test_packets_that_python_can_not_read_or_write_say_nothing(packet: bytes) -> None:
    assert rights(packet) is None
