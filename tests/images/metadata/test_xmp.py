"""XMP packets: what changes in them for the result, what stays, and what a hostile one costs."""

import tracemalloc
from xml.etree import ElementTree

import pytest

from server.images.metadata.placement import Placement
from server.images.metadata.xmp import MAX_BYTES, orientation, rights, upright

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
    straight = upright(ATTRIBUTES, Placement(6, (48, 32), (1280, 1920)))
    expected = ATTRIBUTES.replace(b'Orientation="6"', b'Orientation="1"')
    expected = expected.replace(b'XDimension="48"', b'XDimension="1280"').replace(
        b'YDimension="32"', b'YDimension="1920"'
    )
    assert straight == expected
    other = upright(ELEMENTS, Placement(1, (5, 5), (10, 10)))
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


SPACES = b"""xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:dim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" """


def with_content(content: str) -> bytes:
    return (
        ELEMENTS.split(b"xmlns:tiff")[0]
        + SPACES
        + b">"
        + content.encode()
        + b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


HOSTILE = {
    "declarations in each other": "".join(f'<a xmlns:p{n}="u">' for n in range(2000)) + "</a>" * 2000,
    "many declarations, many elements": (
        "<b " + " ".join(f'xmlns:p{n}="u"' for n in range(2000)) + ">" + '<a xmlns:q="v"/>' * 1500 + "</b>"
    ),
    "thumbnails in each other": "<xmp:Thumbnails>" * 1700 + "</xmp:Thumbnails>" * 1700,
    "thumbnails without an end": "<xmp:Thumbnails>" * 3500,
    "units beside numbers": "<a>" + "<iptc:rbUnit>pixel</iptc:rbUnit>" * 800 + "<iptc:rbX>1</iptc:rbX>" * 1200 + "</a>",
    "units in each other": '<a iptc:rbUnit="pixel" iptc:rbX="1">' * 1200 + "</a>" * 1200,
    "subjects in each other": "<exif:SubjectArea>" * 1500 + "</exif:SubjectArea>" * 1500,
    "sizes in each other": '<a dim:w="1">' * 3000 + "</a>" * 3000,
    "rights in each other": "<dc:rights><rdf:Description>" * 300 + "</rdf:Description></dc:rights>" * 300,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_packet_costs_no_more_than_its_length(content: str) -> None:
    packet = with_content(content)
    assert len(packet) <= MAX_BYTES
    tracemalloc.start()
    try:
        changed, kept = upright(packet, Placement(6, (48, 32), (1280, 1920))), rights(packet)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(changed or b"") + len(kept or b"") < 2 * len(packet)
    assert peak < 10_000_000


@pytest.mark.parametrize("number", ["9" * 5000 + "/1", "9" * 400 + "/1", "1/" + "9" * 5000])
def test_a_number_that_is_too_long_stays(number: str) -> None:
    packet = with_content(f"<exif:FocalPlaneXResolution>{number}</exif:FocalPlaneXResolution>")
    assert upright(packet, Placement(1, (48, 32), (96, 64))) == packet
