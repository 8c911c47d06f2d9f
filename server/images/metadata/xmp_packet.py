"""An XMP packet as a tree of elements that know their place in its bytes, so that single values can be replaced and all
other bytes stay as they are.

The time and memory that this takes grow with the packet's length alone, whatever is in it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

Name = tuple[str, str]
"""Namespace and local name."""

_MOST_DEPTH = 100
"""Elements inside of each other. Real packets have about ten."""
_ATTRIBUTE = re.compile(rb"\s([^\s=<>/\"']+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_TAG = re.compile(rb"<[^\s<>/\"']+(?:\s+[^\s=<>/\"']+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")


@dataclass
class Value:
    """The text of a property: of an attribute, or of an element that contains only text."""

    name: Name
    text: str
    start: int
    end: int
    """Of the text, in the packet."""
    outer: tuple[int, int]
    """Start and end of the whole attribute or element."""
    parent: "Node"


@dataclass
class Node:
    name: Name
    start: int
    inside: int
    """End of the start tag."""
    declared: tuple[str, ...] = ()
    """The namespace prefixes that its start tag declares."""
    parent: "Node | None" = None
    end: int = 0
    end_tag: int = 0
    """Start of the end tag; -1 if the element is empty (`<name/>`)."""
    attributes: list[Value] = field(default_factory=list)
    children: "list[Node]" = field(default_factory=list)

    def all(self) -> "Iterator[Node]":
        """Itself and all elements below it, in document order."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def under(self, *names: Name) -> bool:
        """Whether it is, or is inside of, an element of one of these names."""
        node: Node | None = self
        while node is not None:
            if node.name in names:
                return True
            node = node.parent
        return False


@dataclass
class Packet:
    data: bytes
    root: Node
    """Stands for the document: its name is empty, its children are the outermost elements."""
    edits: list[tuple[int, int, bytes]] = field(default_factory=list)

    def values(self, within: Node | None = None) -> Iterator[Value]:
        for node in (within or self.root).all():
            yield from node.attributes
            if not node.children and node.inside <= node.end_tag:
                text = self.data[node.inside : node.end_tag].decode("utf-8", "replace")
                yield Value(node.name, text, node.inside, node.end_tag, (node.start, node.end), node.parent or node)

    def replace(self, value: Value, text: object) -> None:
        if value.start < value.end:
            self.edits.append((value.start, value.end, str(text).encode()))

    def drop(self, start: int, end: int) -> None:
        self.edits.append((start, end, b""))

    def insert(self, place: int, text: bytes) -> None:
        self.edits.append((place, place, text))

    def result(self) -> bytes:
        """The bytes after all edits. Edits inside of a part that is dropped have no effect."""
        parts, place = [], 0
        for start, end, text in sorted(self.edits, key=lambda edit: (edit[0], -edit[1])):
            if start >= place:
                parts += [self.data[place:start], text]
                place = end
        return b"".join([*parts, self.data[place:]])


def parse(packet: bytes, prefixes: dict[str, str]) -> Packet | None:
    """`prefixes`: the namespace URIs of prefixes that the packet does not declare. None if it is not well-formed XML,
    is nested too deeply, or has a document type, which XMP forbids and which could define endless entities."""
    data = packet.rstrip(b"\0")
    if b"\0" in data or b"<!DOCTYPE" in data:
        return None
    parser = expat.ParserCreate()
    top = Node(("", ""), 0, 0, end=len(data), end_tag=len(data))
    open_nodes = [top]
    scopes = {prefix: [uri] for prefix, uri in prefixes.items()}  # the URIs of each prefix, the innermost last

    def begin(_: str, __: dict[str, str]) -> None:
        start, parent = parser.CurrentByteIndex, open_nodes[-1]
        tag = _TAG.match(data, start)
        if tag is None or len(open_nodes) > _MOST_DEPTH:
            raise ValueError
        found = [(each, each[1].decode("utf-8", "replace")) for each in _ATTRIBUTE.finditer(tag[0])]
        declared = {name[6:]: _text(each) for each, name in found if name.startswith("xmlns:")}
        for prefix, uri in declared.items():
            scopes.setdefault(prefix, []).append(uri)
        name = re.split(rb"[\s/>]", tag[0][1:], maxsplit=1)[0].decode("utf-8", "replace")
        node = Node(_resolved(name, scopes), start, tag.end(), tuple(declared), parent)
        for each, called in found:
            if not called.startswith("xmlns"):
                part = 2 if each[2] is not None else 3
                outer = start + each.start(), start + each.end()
                inner = start + each.start(part), start + each.end(part)
                node.attributes.append(Value(_resolved(called, scopes), _text(each), *inner, outer, node))
        parent.children.append(node)
        open_nodes.append(node)

    def finish(_: str) -> None:
        node, place = open_nodes.pop(), parser.CurrentByteIndex
        for prefix in node.declared:
            scopes[prefix].pop()
        if place == node.start:
            node.end, node.end_tag = node.inside, -1
        else:
            node.end_tag, node.end = place, data.find(b">", place) + 1

    parser.StartElementHandler, parser.EndElementHandler = begin, finish
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):  # also for encodings that Python or expat lacks
        return None
    return Packet(data, top)


def _text(attribute: "re.Match[bytes]") -> str:
    return (attribute[2] if attribute[2] is not None else attribute[3]).decode("utf-8", "replace")


def _resolved(name: str, scopes: dict[str, list[str]]) -> Name:
    """A prefix that is not declared stands for itself."""
    prefix, colon, local = name.partition(":")
    return ((scopes.get(prefix) or [prefix])[-1], local) if colon else ("", name)
