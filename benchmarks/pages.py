"""Synthetic screens and pages whose text is known: to test the detection of text, and text recognition.

A page is a function of its seed. The words are by Lewis Carroll, the fonts are part of matplotlib.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.dataset import Pixels
from training.synthetic import fonts

_PROSE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank and of having nothing to do once or "
    "twice she had peeped into the book her sister was reading but it had no pictures or conversations in it So she "
    "was considering in her own mind as well as she could for the hot day made her feel very sleepy and stupid "
    "whether the pleasure of making a daisy chain would be worth the trouble of getting up and picking the daisies "
    "when suddenly a White Rabbit with pink eyes ran close by her There was nothing so very remarkable in that nor "
    "did Alice think it so very much out of the way to hear the Rabbit say to itself"
)
WORDS = _PROSE.split()

Colour = tuple[int, int, int]
THEMES: tuple[tuple[Colour, Colour], ...] = (
    ((255, 255, 255), (0, 0, 0)),
    ((255, 255, 255), (51, 51, 51)),
    ((250, 246, 236), (60, 40, 30)),
    ((30, 30, 30), (212, 212, 212)),
    ((13, 17, 23), (201, 209, 217)),
    ((240, 242, 245), (28, 30, 33)),
)
"""Paper and ink: light and dark themes of programs and pages."""


@dataclass(frozen=True)
class Line:
    """A line of text and its box: left, top, right, bottom."""

    text: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Page:
    pixels: Pixels
    lines: tuple[Line, ...]


class Pen:
    """Draws text, and records each line with its box."""

    def __init__(self, size: tuple[int, int], paper: Colour, *, subpixel: bool = False) -> None:
        self.image = Image.new("RGB", size, paper)
        self.draw = ImageDraw.Draw(self.image)
        self.lines: list[Line] = []
        self._subpixel = subpixel

    def text(self, at: tuple[int, int], words: str, ink: Colour, face: str, size: int) -> int:
        """Returns the right end. Words that don't fit are left out."""
        font = ImageFont.truetype(face, size)
        while words and at[0] + font.getlength(words) > self.image.width - 4:
            words = words.rpartition(" ")[0]
        right, bottom = at[0] + round(font.getlength(words)), at[1] + round(size * 1.35)
        if not words or bottom > self.image.height:
            return at[0]
        if self._subpixel:
            _stripes(self.image, at, words, ink, face, size)
        else:
            self.draw.text(at, words, ink, font)
        self.lines.append(Line(words, (at[0], at[1], right, bottom)))
        return right

    def page(self) -> Page:
        return Page(np.asarray(self.image), tuple(self.lines))


def _stripes(image: Image.Image, at: tuple[int, int], words: str, ink: Colour, face: str, size: int) -> None:
    """Subpixel rendering, for screens with red, green and blue stripes: each third of a pixel has its own coverage."""
    font = ImageFont.truetype(face, 3 * size)
    w, h = round(font.getlength(words) / 3) + 2, round(size * 1.35)
    mask = Image.new("L", (3 * w, 3 * h))
    ImageDraw.Draw(mask).text((0, 0), words, 255, font)
    thirds = np.asarray(mask.resize((3 * w, h), Image.Resampling.BOX), np.float64) / 255
    padded = np.pad(thirds, ((0, 0), (2, 2)))
    weights = (1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)
    smooth = sum(weight * padded[:, k : k + 3 * w] for k, weight in enumerate(weights))
    coverage = np.asarray(smooth).reshape(h, w, 3)
    box = (at[0], at[1], at[0] + w, at[1] + h)
    below = np.asarray(image.crop(box), np.float64)
    mixed = below + (np.array(ink) - below) * coverage
    image.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)), box[:2])


def words(rng: np.random.Generator, count: int) -> str:
    start = int(rng.integers(len(WORDS)))
    return " ".join((WORDS * 2)[start : start + count])


def _theme(rng: np.random.Generator) -> tuple[Colour, Colour]:
    return THEMES[rng.integers(len(THEMES))]


def face(name: str) -> str:
    """The path of a font, by its name."""
    return next(each for each in fonts() if each.endswith(name))


def _face(rng: np.random.Generator, part: str = "") -> str:
    faces = [each for each in fonts() if part in each and "Oblique" not in each and "Italic" not in each]
    return faces[rng.integers(len(faces))]


def paragraphs(rng: np.random.Generator, size: tuple[int, int] = (640, 480), text_size: int | None = None) -> Page:
    """A page of prose."""
    paper, ink = _theme(rng)
    pen = Pen(size, paper, subpixel=bool(rng.random() < 0.5))
    face, points = _face(rng), text_size or int(rng.integers(10, 19))
    top = int(rng.integers(6, 24))
    while top < size[1] - points:
        pen.text((int(size[0] * 0.04) + 4, top), words(rng, 40), ink, face, points)
        top += round(points * 1.45)
        if rng.random() < 0.12:
            top += points
    return pen.page()


def code(rng: np.random.Generator, size: tuple[int, int] = (800, 600), text_size: int | None = None) -> Page:
    """An editor: monospaced, many colours, indents."""
    dark = rng.random() < 0.7
    paper: Colour = (30, 30, 30) if dark else (255, 255, 255)
    inks: list[Colour] = [(86, 156, 214), (206, 145, 120), (220, 220, 170), (212, 212, 212)]
    if not dark:
        inks = [(0, 0, 200), (163, 21, 21), (0, 110, 60), (20, 20, 20)]
    pen = Pen(size, paper, subpixel=bool(rng.random() < 0.5))
    points, face = text_size or int(rng.integers(11, 16)), _face(rng, "SansMono")
    pen.draw.rectangle((0, 0, 40, size[1]), (37, 37, 38) if dark else (240, 240, 240))
    for number, top in enumerate(range(8, size[1] - points, round(points * 1.4)), 1):
        pen.text((6, top), str(number), (128, 128, 128), face, points)
        left = 52 + 2 * points * int(rng.integers(0, 4))
        for _ in range(int(rng.integers(0, 5))):
            ink = inks[rng.integers(len(inks))]
            left = pen.text((left, top), words(rng, int(rng.integers(1, 3))) + " ", ink, face, points)
    return pen.page()


def window(rng: np.random.Generator, size: tuple[int, int] = (1024, 700), text_size: int | None = None) -> Page:
    """A program's window: title, menu, a list at the side, a table, buttons."""
    paper, ink = _theme(rng)
    pen = Pen(size, paper, subpixel=bool(rng.random() < 0.5))
    points, face = text_size or int(rng.integers(11, 15)), _face(rng, "Sans")
    accent: Colour = tuple(int(level) for level in rng.integers(40, 200, 3))  # type: ignore[assignment]
    soft: Colour = tuple((9 * p + i) // 10 for p, i in zip(paper, ink, strict=True))  # type: ignore[assignment]
    pen.draw.rectangle((0, 0, size[0], 30), accent)
    pen.text((12, 7), words(rng, 5), (255, 255, 255), face, points)
    left = 12
    for _ in range(5):
        left = pen.text((left, 38), words(rng, 1), ink, face, points) + 18
    pen.draw.rectangle((0, 62, 180, size[1]), soft)
    for top in range(72, size[1] - 30, 26):
        pen.text((14, top), words(rng, 2), ink, face, points)
    for top in range(72, size[1] - 120, 28):
        for left in range(200, size[0] - 120, 160):
            short = words(rng, 2) if rng.random() < 0.6 else f"{rng.integers(0, 10**5)}"
            pen.text((left, top), short, ink, face, points)
        pen.draw.line((196, top + 23, size[0] - 12, top + 23), soft)
    for left in range(200, size[0] - 160, 170):
        pen.draw.rounded_rectangle((left, size[1] - 60, left + 140, size[1] - 24), 6, accent)
        pen.text((left + 16, size[1] - 52), words(rng, 2), (255, 255, 255), face, points)
    return pen.page()


def chart(rng: np.random.Generator, size: tuple[int, int] = (720, 480)) -> Page:
    """Axes, a grid, curves or bars, and their labels."""
    paper, ink = _theme(rng)
    pen = Pen(size, paper)
    points, face = int(rng.integers(10, 14)), _face(rng, "Sans")
    grid: Colour = tuple((8 * p + 2 * i) // 10 for p, i in zip(paper, ink, strict=True))  # type: ignore[assignment]
    left, top, right, bottom = 70, 46, size[0] - 24, size[1] - 52
    pen.text((left + 60, 12), words(rng, 6), ink, face, points + 4)
    unit = rng.integers(1, 200) / 10
    for k in range(6):
        y = bottom - (bottom - top) * k // 5
        pen.draw.line((left, y, right, y), grid)
        pen.text((14, y - points // 2 - 2), f"{k * unit:.1f}", ink, face, points)
    for k in range(8):
        x = left + (right - left) * k // 8
        pen.text((x, bottom + 8), str(1990 + 4 * k), ink, face, points)
    for number in range(int(rng.integers(1, 4))):
        colour: Colour = tuple(int(level) for level in rng.integers(0, 220, 3))  # type: ignore[assignment]
        values = np.clip(0.5 + np.cumsum(rng.normal(0, 0.12, 16)), 0.05, 0.95)
        xs = np.linspace(left + 6, right - 6, 16)
        ys = bottom - values * (bottom - top)
        if rng.random() < 0.5:
            pen.draw.line([(float(x), float(y)) for x, y in zip(xs, ys, strict=True)], colour, 2)
        else:
            for x, y in zip(xs, ys, strict=True):
                pen.draw.rectangle((int(x) + 9 * number - 8, int(y), int(x) + 9 * number, bottom), colour)
        pen.draw.rectangle((right - 150, top + 8 + 20 * number, right - 138, top + 20 + 20 * number), colour)
        pen.text((right - 132, top + 6 + 20 * number), words(rng, 2), ink, face, points)
    pen.draw.rectangle((left, top, right, bottom), None, ink)
    return pen.page()


def article(rng: np.random.Generator, photo: Pixels | None = None, size: tuple[int, int] = (900, 700)) -> Page:
    """A web page: heading, prose, and a picture."""
    paper, ink = _theme(rng)
    pen = Pen(size, paper, subpixel=bool(rng.random() < 0.5))
    points, face = int(rng.integers(12, 17)), _face(rng)
    pen.text((40, 24), words(rng, 7), ink, face, 2 * points)
    if photo is not None:
        w, h = size[0] // 2, size[1] // 2
        pen.image.paste(Image.fromarray(photo).resize((w, h), Image.Resampling.BICUBIC), (40, 80))
    top = 80 + (size[1] // 2 + 20 if photo is not None else 0)
    while top < size[1] - points:
        pen.text((40, top), words(rng, 40), ink, face, points)
        top += round(points * 1.5)
    for top in range(90, 80 + size[1] // 2, 2 * points):
        if photo is not None:
            pen.text((60 + size[0] // 2, top), words(rng, 4), ink, face, points)
    return pen.page()


def scan(rng: np.random.Generator, size: tuple[int, int] = (800, 600), text_size: int | None = None) -> Page:
    """A clean print from a flatbed scanner: slightly blurred, grainy and rotated."""
    pen = Pen(size, (255, 255, 255))
    face, points = _face(rng), text_size or int(rng.integers(14, 24))
    edge = 20 if size[1] > 200 else 8
    for top in range(edge, size[1] - 2 * edge, round(points * 1.4)):
        pen.text((16 + edge, top), words(rng, 30), (0, 0, 0), face, points)
    turned = pen.image.rotate(
        rng.uniform(-0.7, 0.7) * min(1.0, 400 / size[0]), Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)
    )
    soft = turned.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8)))
    levels = np.asarray(soft, np.float64) * 0.8 + 40 + rng.normal(0, rng.uniform(0.5, 1.5), (size[1], size[0], 1))
    return Page(np.clip(np.rint(levels), 0, 255).astype(np.uint8), pen.page().lines)


KINDS: dict[str, Callable[[np.random.Generator], Page]] = {
    "prose": paragraphs,
    "code": code,
    "window": window,
    "chart": chart,
    "scan": scan,
}


def draw(kind: str, number: int) -> Page:
    """Page `number` of its kind; deterministic."""
    return KINDS[kind](np.random.default_rng((2029, sorted(KINDS).index(kind), number)))


def photographed(rng: np.random.Generator, size: tuple[int, int] = (800, 600), text_size: int | None = None) -> Page:
    """A print photographed by a camera: light from one side, slightly out of focus, grain, JPEG."""
    pen = Pen(size, (255, 255, 255))
    face, points = _face(rng), text_size or int(rng.integers(14, 24))
    for top in range(10, size[1] - 2 * points, round(points * 1.5)):
        pen.text((14, top), words(rng, 30), (20, 20, 25), face, points)
    soft = pen.image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 0.9)))
    y, x = np.mgrid[: size[1], : size[0]]
    angle = rng.uniform(0, 2 * np.pi)
    light = 0.75 + 0.2 * (np.cos(angle) * x / size[0] + np.sin(angle) * y / size[1])
    tint = np.array((1.0, 0.97, 0.9))
    levels = (40 + 0.8 * np.asarray(soft, np.float64)) * light[..., None] * tint + rng.normal(
        0, 3, (size[1], size[0], 1)
    )
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=80)
    return Page(np.asarray(Image.open(buffer)), pen.page().lines)


def part(page: Page, box: tuple[int, int, int, int]) -> Page:
    """A crop, with the lines that are wholly inside."""
    left, top, right, bottom = box
    lines = [
        Line(line.text, (line.box[0] - left, line.box[1] - top, line.box[2] - left, line.box[3] - top))
        for line in page.lines
        if line.box[0] >= left and line.box[1] >= top and line.box[2] <= right and line.box[3] <= bottom
    ]
    return Page(np.ascontiguousarray(page.pixels[top:bottom, left:right]), tuple(lines))
