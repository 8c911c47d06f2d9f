"""Comic books: a ZIP archive with a picture for each page (.cbz). Other files in it, such as ComicInfo.xml, are kept.

Nothing is unpacked to the disk. An archive is refused as a whole if a name in it would leave the folder into which
somebody unpacks it, if it is encrypted, or if it unpacks to far more than its own size.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from server.cli.pages.base import Limits, UpscalePage
from server.cli.sources import PICTURES
from server.errors import SourceTooLarge, SourceUnreadable
from server.files import scratch_file
from server.job.formats import FORMATS, FormatName

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

NAME = "cbz"
ENDINGS: tuple[str, ...] = (".cbz",)

_ALWAYS_BYTES = 100 << 20
_MOST_RATIO = 200
"""An archive that unpacks to more than _ALWAYS_BYTES must not be smaller than this fraction of it: pictures are
compressed already."""
_ENCRYPTED = 1
"""A bit of a member's flags (APPNOTE 4.4.4)."""


def has_pages(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def convert(source: Path, target: Path, limits: Limits, upscale_page: UpscalePage) -> int:
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

    with _plain_errors(), ZipFile(source) as archive:
        members = _checked(archive, source.stat().st_size, limits)
        pages = [each for each in members if _is_page(each.filename)]
        if not pages:
            raise SourceUnreadable("there are no pictures in this archive")
        taken = {each.filename for each in members if each not in pages}
        with ZipFile(target, "w", ZIP_STORED) as result, scratch_file(target.parent) as page:
            for member in members:
                if member not in pages:
                    result.writestr(member.filename, archive.read(member), ZIP_DEFLATED)
                    continue
                data = archive.read(member)
                number = pages.index(member) + 1
                format_ = upscale_page(data, page, number, len(pages), own=_own_format(data))
                name = _result_name(member.filename, format_, taken)
                taken.add(name)
                result.write(page, name)
    return len(pages)


@contextmanager
def _plain_errors() -> Iterator[None]:
    import zlib
    from zipfile import BadZipFile

    try:
        yield
    except (BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SourceUnreadable(f"the archive is damaged, or of a kind that is not supported: {error}") from error


def _checked(archive: "ZipFile", size: int, limits: Limits) -> "list[ZipInfo]":
    """The members, without folders. Raises SourceUnreadable and SourceTooLarge."""
    members = [each for each in archive.infolist() if not each.is_dir()]
    for each in members:
        if leaves(each.filename):
            raise SourceUnreadable(f"the archive has a name that leads out of it: {each.filename!r}")
        if each.flag_bits & _ENCRYPTED:
            raise SourceUnreadable("the archive is encrypted")
        if each.file_size > limits.page_bytes:
            raise SourceTooLarge(f"{each.filename!r} has {each.file_size} bytes; at most {limits.page_bytes} are taken")
    if len({each.filename for each in members}) < len(members):
        raise SourceUnreadable("the archive has a name twice")
    if len(members) > limits.pages:
        raise SourceTooLarge(f"the archive has {len(members)} files; at most {limits.pages} are taken")
    total = sum(each.file_size for each in members)
    if total > limits.total_bytes:
        raise SourceTooLarge(f"the archive unpacks to {total} bytes; at most {limits.total_bytes} are taken")
    if total > max(_ALWAYS_BYTES, size * _MOST_RATIO):
        raise SourceTooLarge(f"the archive unpacks to {total} bytes, {total // size} times its size: it is not taken")
    return members


def leaves(name: str) -> bool:
    """Whether a name would lead out of the folder into which an archive is unpacked, on any system."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or not parts[0] or ":" in parts[0] or "\0" in name


def _is_page(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in PICTURES and not hidden


def _own_format(data: bytes) -> FormatName:
    """The page's own format; png for one that is not written."""
    from server.images.read.sniff import sniff

    mime = sniff(data)
    return next((form.name for form in FORMATS.values() if form.mime == mime), "png")


def _result_name(name: str, format_: FormatName, taken: set[str]) -> str:
    """The page's name, with another ending if the format is another."""
    from server.cli.options import ALIASES

    path = PurePosixPath(name)
    if ALIASES.get(path.suffix.lower().lstrip(".")) == format_ and name not in taken:
        return name
    ending = FORMATS[format_].suffix
    changed = str(path.with_suffix(ending))
    return changed if changed not in taken else name + ending
