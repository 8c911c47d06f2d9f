"""What a result says about its own origin, in XMP: IPTC's digital source type, the program, the networks.

Statements of the source that are no longer true are replaced: a camera's picture that went through a network is no
"digitalCapture". What the source says about AI is never weakened. docs/provenance.md explains the labels.
"""

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr, unescape

from server.images.metadata.xmp import IPTC, RDF, USUAL, XMP, with_description
from server.images.metadata.xmp_packet import Packet, parse

TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
ENHANCED, COMPOSITE, SYNTHETIC, TRAINED = (
    "algorithmicallyEnhanced",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "trainedAlgorithmicMedia",
)
"""Terms of IPTC's vocabulary (https://cv.iptc.org/newscodes/digitalsourcetype/): pixels computed from the source's;
parts drawn by a generative network; parts that are synthetic in some way; all of it drawn by a generative network."""
_STRENGTH = (ENHANCED, SYNTHETIC, COMPOSITE, TRAINED)
NAMESPACE = "urn:upscale-server:result:1.0#"
_DCTERMS = "http://purl.org/dc/terms/"
_SOURCE_TYPES = ("DigitalSourceType", "DigitalSourcefileType", "digitalsourcetype")
"""The property, as IPTC Extension 1.1 called it before, and as other spellings have it."""


@dataclass(frozen=True)
class Origin:
    """How a result was made."""

    program: str
    """Name and version."""
    generated: bool
    """A generative network drew parts of it: the diffusion pass, or restored faces."""
    source_type: str | None = None
    """The strongest statement about AI in the source's file, one of this module's terms."""
    details: tuple[tuple[str, str], ...] = ()
    """Names and values of properties in this server's own namespace, for example ("Model", "RealESRGAN_x4plus")."""

    @property
    def digital_source_type(self) -> str:
        own = COMPOSITE if self.generated else ENHANCED
        return max(own, self.source_type or ENHANCED, key=_STRENGTH.index)


def source_type(data: bytes, packet: bytes | None) -> str | None:
    """The strongest statement about AI in a source's file: in its XMP, or in a C2PA manifest, whose texts are not
    compressed. Other statements, such as "digitalCapture", are None. `packet`: its XMP, where the file may have
    compressed it."""
    found = [term for term in _STRENGTH if any(term.encode() in each for each in (data, packet or b""))]
    return found[-1] if found else None


def labelled(packet: bytes | None, origin: Origin) -> bytes:
    """The packet with the result's own statements in place of the source's. None and damaged packets give one that has
    nothing else."""
    return with_description(packet, _description(origin), lambda parsed: _drop(parsed, own=True))


def without_claims(packet: bytes) -> bytes:
    """The packet without the source's statements about its origin."""
    parsed = parse(packet, USUAL)
    if parsed is None:
        return packet
    _drop(parsed, own=False)
    return parsed.result()


def read(packet: bytes) -> dict[str, str]:
    """The label of a file: the digital source type (its last part), "CreatorTool", and what is in this server's
    namespace. Empty if the packet has none of them or is damaged."""
    parsed = parse(packet, USUAL)
    found: dict[str, str] = {}
    for value in parsed.values() if parsed else ():
        if value.name == (IPTC, "DigitalSourceType"):
            found[value.name[1]] = value.text.strip().removeprefix(TERMS)
        elif value.name[0] == NAMESPACE or value.name == (XMP, "CreatorTool"):
            found[value.name[1]] = unescape(value.text, {"&quot;": '"', "&apos;": "'"})
    return found


def _description(origin: Origin) -> bytes:
    """One element whose prefixes are declared in it: the packet may use them for something else."""
    properties = [
        ("Iptc4xmpExt:DigitalSourceType", TERMS + origin.digital_source_type),
        ("xmp:CreatorTool", origin.program),
        *((f"upscale:{name}", value) for name, value in origin.details),
    ]
    spaces = (
        ("rdf", RDF),
        ("Iptc4xmpExt", IPTC),
        ("xmp", XMP),
        ("upscale", NAMESPACE),
    )
    declared = "".join(f" xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in spaces)
    stated = "".join(f" {name}={quoteattr(value)}" for name, value in properties)
    return f'<rdf:Description{declared} rdf:about=""{stated}/>'.encode()


def _drop(parsed: Packet, *, own: bool) -> None:
    """Remove the source's statements about its origin; with `own` also the program's name and what an earlier run
    stated in our namespace."""

    def stale(name: tuple[str, str]) -> bool:
        return (
            (name[0] == IPTC and name[1] in _SOURCE_TYPES)
            or name == (_DCTERMS, "provenance")  # the address of a manifest that is the source's
            or (own and (name[0] == NAMESPACE or name == (XMP, "CreatorTool")))
        )

    for node in parsed.root.all():
        if stale(node.name):
            parsed.drop(node.start, node.end)
        for value in node.attributes:
            if stale(value.name):
                parsed.drop(*value.outer)
