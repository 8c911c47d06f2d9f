"""The label: what a result says about its own origin. docs/provenance.md has the rules."""

import io

import pytest
from PIL import Image

from server.images.metadata import provenance
from server.images.metadata.provenance import COMPOSITE, ENHANCED, SYNTHETIC, TRAINED, Origin, labelled, read
from server.images.read.gif import comment, packet, xmp

PACKET = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dcterms="http://purl.org/dc/terms/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmp:CreatorTool="Camera 3" xmp:Rating="4" dcterms:provenance="https://example.com/manifest">
<e:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture</e:DigitalSourceType>
<dc:format>image/jpeg</dc:format></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
DETAILS = (("Model", 'a <b> & "c"'), ("Creativity", "2"))


def origin(generated: bool = False, source_type: str | None = None) -> Origin:
    return Origin("upscale-server 1", generated, source_type, DETAILS)


@pytest.mark.parametrize("packet", [None, b"", b"<damaged", PACKET, PACKET.replace(b"e:", b"Iptc4xmpExt:")])
def test_the_label_is_read_back_whatever_the_packet_was(packet: bytes | None) -> None:
    assert read(labelled(packet, origin())) == {
        "DigitalSourceType": ENHANCED,
        "CreatorTool": "upscale-server 1",
        "Model": 'a <b> & "c"',
        "Creativity": "2",
    }


def test_what_is_no_longer_true_goes_and_the_rest_stays() -> None:
    packet = labelled(PACKET, origin())
    assert b"digitalCapture" not in packet and b"example.com" not in packet and b"Camera 3" not in packet
    assert b'xmp:Rating="4"' in packet and b"<dc:format>image/jpeg</dc:format>" in packet


def test_a_result_that_is_enlarged_again_has_one_label() -> None:
    once = labelled(PACKET, origin(generated=True))
    twice = labelled(once, Origin("upscale-server 2", False, provenance.source_type(once, None), (("Model", "b"),)))
    assert read(twice) == {"DigitalSourceType": COMPOSITE, "CreatorTool": "upscale-server 2", "Model": "b"}
    assert twice.count(b"DigitalSourceType") == 1


@pytest.mark.parametrize(
    ("source", "generated", "label"),
    [
        (None, False, ENHANCED),
        (None, True, COMPOSITE),
        (ENHANCED, True, COMPOSITE),
        (SYNTHETIC, False, SYNTHETIC),
        (SYNTHETIC, True, COMPOSITE),
        (COMPOSITE, False, COMPOSITE),
        (TRAINED, False, TRAINED),
        (TRAINED, True, TRAINED),
    ],
)
def test_what_the_source_says_about_ai_is_never_weakened(source: str | None, generated: bool, label: str) -> None:
    assert origin(generated, source).digital_source_type == label


@pytest.mark.parametrize("term", [ENHANCED, SYNTHETIC, COMPOSITE, TRAINED])
def test_a_statement_is_found_in_xmp_and_in_a_manifest(term: str) -> None:
    stated = f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}".encode()
    assert provenance.source_type(b"\xff\xd8 JUMBF " + stated, None) == term
    assert provenance.source_type(b"compressed", PACKET.replace(b"digitalCapture", term.encode())) == term
    assert provenance.source_type(b"\xff\xd8", PACKET) is None


def test_without_a_label_only_the_false_statements_go() -> None:
    packet = provenance.without_claims(PACKET)
    assert b"digitalCapture" not in packet and b"example.com" not in packet
    assert b'CreatorTool="Camera 3"' in packet
    assert provenance.without_claims(b"<damaged") == b"<damaged"


def test_xmp_in_a_gif_is_read_back_and_no_reader_trips_over_it() -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(buffer, "gif")
    data = buffer.getvalue()
    start = 13 + 3 * (2 << (data[10] & 7))
    label = labelled(None, origin())
    data = data[:start] + comment(b"hello") + xmp(label) + data[start:]
    assert packet(data) == label and packet(data[:start]) is None
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.info["comment"] == b"hello"
        assert image.info["extension"][0] == b"XMP DataXMP"
