"""Texts in picture files that are neither EXIF, XMP nor IPTC: the text chunks of PNG (keyword and text), and the
comments of JPEG and GIF, which have no keyword.

They are copied as they are, compressed texts too. Only a text that becomes a comment is inflated, at most to the size
that a comment can hold.
"""

import zlib
from dataclasses import dataclass

from server.images.chunks import is_intact, png_chunks
from server.images.read import gif, jpeg
from server.images.read.sniff import sniff
from server.job.formats import FORMATS

_NAMES = (b"tEXt", b"zTXt", b"iTXt")
_ELSEWHERE = ("xml:com.adobe.xmp", "raw profile type")
"""How the keywords of EXIF, XMP, IPTC and profiles begin, which are read elsewhere."""
_RIGHTS = {"author", "artist", "creator", "copyright", "rights", "license", "licence", "usage terms", "credit"}
_COMMENT = "comment"

MAX_BYTES = 8 << 20
"""Of all texts of a picture together; texts beyond it are left out."""
MAX_TEXTS = 1000
MAX_COMMENT = 65_533
"""Bytes in a JPEG segment."""


@dataclass(frozen=True)
class Text:
    keyword: str
    chunk: bytes
    """Name and contents of a PNG chunk."""

    def plain(self) -> bytes | None:
        """The text alone, in UTF-8; None if it is damaged, or longer than MAX_COMMENT."""
        name, (_, _, rest) = self.chunk[:4], self.chunk[4:].partition(b"\0")
        compressed = name == b"zTXt" or (name == b"iTXt" and rest[:1] == b"\1")
        if name == b"zTXt":
            rest = rest[1:]
        elif name == b"iTXt":
            rest = b"".join(rest[2:].split(b"\0", 2)[2:])
        if compressed:
            inflater = zlib.decompressobj()
            try:
                rest = inflater.decompress(rest, MAX_COMMENT + 1)
            except zlib.error:
                return None
        text = rest if name == b"iTXt" else rest.decode("latin-1").encode()
        return text if len(text) <= MAX_COMMENT else None


@dataclass(frozen=True)
class Texts:
    texts: tuple[Text, ...] = ()
    """Of a PNG."""
    comments: tuple[bytes, ...] = ()
    """Of a JPEG or GIF, in an unknown encoding."""

    def rights(self) -> "Texts":
        """Only texts about author and rights."""
        return Texts(tuple(text for text in self.texts if text.keyword.lower() in _RIGHTS))

    def as_chunks(self) -> list[tuple[bytes, bytes]]:
        """Names and contents, for a PNG file."""
        return [(text.chunk[:4], text.chunk[4:]) for text in self.texts] + [_chunk(each) for each in self.comments]

    def as_comments(self) -> list[bytes]:
        """Comments for a JPEG or GIF file; of PNG texts only those with the keyword "Comment"."""
        found = [text.plain() for text in self.texts if text.keyword.lower() == _COMMENT]
        return [*self.comments, *(each for each in found if each)]

    def keywords_without_place(self, format_: str) -> list[str]:
        """Keywords of the texts that a file of that format can't hold."""
        holds = FORMATS[format_].texts
        if holds == "keywords":
            return []
        kept = _COMMENT if holds == "comments" else None
        names = [text.keyword for text in self.texts if text.keyword.lower() != kept]
        return names + (["Comment"] if self.comments and kept is None else [])

    def pack(self) -> bytes | None:
        """As bytes, for a field of a libvips picture."""
        parts = [b"t" + text.chunk for text in self.texts] + [b"c" + each for each in self.comments]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts) or None


def unpack(data: bytes | None) -> Texts:
    texts, comments, place = [], [], 0
    while data and place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, part = data[place + 4 : place + 5], data[place + 5 : place + 4 + length]
        if kind == b"t":
            texts.append(Text(_keyword(part), part))
        else:
            comments.append(part)
        place += 4 + length
    return Texts(tuple(texts), tuple(comments))


def read(data: bytes) -> Texts:
    kind = sniff(data)
    if kind == "image/png":
        return Texts(texts=tuple(_of_png(data)))
    if kind == "image/jpeg":
        return Texts(comments=tuple(_of_jpeg(data)))
    return Texts(comments=tuple(filter(None, gif.read(data).comments[:MAX_TEXTS]))) if kind == "image/gif" else Texts()


def _of_png(data: bytes) -> list[Text]:
    found: list[Text] = []
    room = MAX_BYTES
    for name, start, end in png_chunks(data):
        if name not in _NAMES or len(found) == MAX_TEXTS or end - start > room:
            continue
        part = data[start - 4 : end]
        keyword = _keyword(part) if is_intact(data, start, end) else ""  # a damaged one is left out
        if keyword and not keyword.lower().startswith(_ELSEWHERE):
            found.append(Text(keyword, part))
            room -= len(part)
    return found


def _keyword(part: bytes) -> str:
    """1 … 79 characters; empty if there is no valid keyword."""
    keyword, end, _ = part[4:84].partition(b"\0")
    return keyword.decode("latin-1") if end else ""


def _of_jpeg(data: bytes) -> list[bytes]:
    return [each for each in jpeg.comments(data, jpeg.look(data))[:MAX_TEXTS] if each]


def _chunk(comment: bytes) -> tuple[bytes, bytes]:
    """Name and contents of a PNG chunk: tEXt if Latin-1 can hold the comment, else iTXt."""
    try:
        text = comment.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        text = comment.rstrip(b"\0").decode("latin-1")
    text = text.replace("\0", " ")
    try:
        return b"tEXt", b"Comment\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", b"Comment\0\0\0\0\0" + text.encode()
