"""What is sent, and what the results are held against.

Without references the files go out as they are, if they are JPEG, PNG or WebP; others become PNG. With a reference
scale s each file is the truth: its middle, a multiple of s, is reduced s times (Pillow's antialiased bicubic) and sent
as PNG.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from benchmarks.hosted.vendors.base import Sent

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp")
_SENT_AS_IS = {"JPEG": (".jpg", "image/jpeg"), "PNG": (".png", "image/png"), "WEBP": (".webp", "image/webp")}


@dataclass(frozen=True)
class Picture:
    sent: Sent
    reference: Image.Image | None
    """RGB; what the result should look like."""

    @property
    def name(self) -> str:
        return Path(self.sent.name).stem


def find(paths: list[Path]) -> list[Path]:
    """Files as given, folders by name. Raises SystemExit."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise SystemExit(f"there is no {path}")
    if not found:
        raise SystemExit(f"no pictures ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}")
    return found


def load(paths: list[Path], reference_scale: int | None = None, references: Path | None = None) -> list[Picture]:
    """Raises SystemExit."""
    pictures: list[Picture] = []
    names: set[str] = set()
    for path in paths:
        name = _unique(re.sub(r"[^\w.-]+", "-", path.stem) or "picture", names)
        try:
            if reference_scale:
                pictures.append(_reduced(path, name, reference_scale))
            else:
                pictures.append(Picture(_as_is(path, name), _reference(path, references)))
        except (UnidentifiedImageError, OSError) as error:
            raise SystemExit(f"{path} can't be read as a picture: {error}") from error
    return pictures


def rgb(data: bytes) -> Image.Image:
    """Upright, eight bits, on white where it was transparent. Raises OSError."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= 0.01


def brought_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _as_is(path: Path, name: str) -> Sent:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        kind = _SENT_AS_IS.get(opened.format or "")
    image = rgb(data)
    if kind is None:
        return _png(image, name)
    return Sent(name + kind[0], data, kind[1], *image.size)


def _reduced(path: Path, name: str, scale: int) -> Picture:
    image = rgb(path.read_bytes())
    width, height = (side // scale for side in image.size)
    if not width or not height:
        raise SystemExit(f"{path} is too small to be reduced {scale} times")
    left, top = (image.width - width * scale) // 2, (image.height - height * scale) // 2
    reference = image.crop((left, top, left + width * scale, top + height * scale))
    return Picture(_png(reference.resize((width, height), Image.Resampling.BICUBIC), name), reference)


def _reference(path: Path, references: Path | None) -> Image.Image | None:
    """The file of the same name, whatever its suffix, in the folder of references."""
    if references is None:
        return None
    found = [each for each in sorted(references.iterdir()) if each.stem == path.stem]
    return rgb(found[0].read_bytes()) if found else None


def _png(image: Image.Image, name: str) -> Sent:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Sent(f"{name}.png", buffer.getvalue(), "image/png", *image.size)


def _unique(name: str, taken: set[str]) -> str:
    number = 1
    found = name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found
