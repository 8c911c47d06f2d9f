"""The pictures that came back: on disk, each different one once."""

import hashlib
import io
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError

from benchmarks.hosted.line import Broken
from benchmarks.hosted.picture import rgb
from benchmarks.hosted.vendors.base import JSON

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


class Results:
    """In `folder`/label/picture-1.png, -2 and so on in the order they came."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[tuple[str, str], dict[str, Path]] = {}
        self._facts: dict[tuple[str, str], JSON] = {}
        self._lock = Lock()

    def take(self, label: str, picture: str, data: bytes) -> None:
        """Raises Broken if it is no picture, as far as its header tells."""
        try:
            with Image.open(io.BytesIO(data)) as opened:
                size, kind = opened.size, opened.format or "?"
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise Broken("unreadable", "the result is not a picture") from error
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            known = self._paths.setdefault((label, picture), {})
            if digest in known:
                return
            path = self._folder / label / f"{picture}-{len(known) + 1}{_SUFFIXES.get(kind, '.bin')}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            known[digest] = path
            first = {"width": size[0], "height": size[1], "bytes": len(data), "format": kind.lower()}
            self._facts.setdefault((label, picture), first)

    def of(self, label: str, picture: str) -> list[Path]:
        return list(self._paths.get((label, picture), {}).values())

    def first(self, label: str, picture: str) -> Image.Image | None:
        """RGB; None if there is none, or if it can't be decoded after all."""
        for path in self.of(label, picture)[:1]:
            try:
                return rgb(path.read_bytes())
            except (OSError, ValueError):
                return None
        return None

    def facts(self) -> dict[tuple[str, str], JSON]:
        """width, height, bytes, format and how many different ones there were, of (label, picture)."""
        return {key: {**facts, "different": len(self._paths[key])} for key, facts in self._facts.items()}
