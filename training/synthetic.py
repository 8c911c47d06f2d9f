"""Synthetic pictures, drawn from a seed, of what the photographs have little of: text, interfaces, charts, line art,
occluding shapes, regular patterns, smooth gradients.

They have no foreign licence and no compression artefacts. The fonts are part of matplotlib (DejaVu and STIX, free
licences); this repository contains none.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.dataset import Pixels

SIDE = 1024
PAGES = 64
"""200 MB when all are drawn, in every process that makes pairs."""

Colour = tuple[int, int, int]
_FACES = ("DejaVuSans*.ttf", "DejaVuSerif*.ttf", "STIXGeneral*.ttf")
_SYLLABLES = (
    "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "qui", "ro", "su", "ta", "vé", "wi", "xo",
    "yl", "zen", "str", "ing", "tion", "ß", "ö", "ück",
)  # fmt: skip
_SIGNS = (".", ",", ":", "!", "?", " –", "%", " €", "/", ")", "")


class Pages(Sequence[Pixels]):
    """Page number n is a function of (seed, n). It is drawn at first use, which takes half a second, and then kept."""

    def __init__(self, seed: int, count: int = PAGES) -> None:
        self.seed = seed
        self._drawn: list[Pixels | None] = [None] * count

    def __len__(self) -> int:
        return len(self._drawn)

    @overload
    def __getitem__(self, number: int) -> Pixels: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Pixels]: ...
    def __getitem__(self, number: int | slice) -> Pixels | Sequence[Pixels]:
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        page = self._drawn[number]
        if page is None:
            rng = np.random.default_rng((self.seed, number))
            page = self._drawn[number] = KINDS[number % len(KINDS)](rng)
        return page


def text(rng: np.random.Generator) -> Pixels:
    """Two columns of paragraphs and headings in many typefaces and sizes."""
    paper, ink = _contrast(rng)
    page = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(page)
    for left in (12, SIDE // 2 + 12):
        top = int(rng.integers(0, 12))
        while top < SIDE:
            size = int(9 * np.exp(rng.exponential(0.5)))
            font = _font(rng, min(size, 72))
            colour = ink if rng.random() < 0.7 else _colour(rng)
            for _ in range(rng.integers(1, 7)):
                draw.text((left, top), _words(rng, SIDE // 2 - 24, size), colour, font)
                top += int(size * rng.uniform(1.15, 1.5))
            top += size
        draw.rectangle((left + SIDE // 2 - 24, 0, left + SIDE // 2 + 24, SIDE), paper)
    return np.asarray(page)


def interface(rng: np.random.Generator) -> Pixels:
    """Cards with small text, buttons, fields, hairlines and ticks."""
    paper, ink = _contrast(rng)
    page = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(page)
    step = int(rng.integers(110, 200))
    accent, card, line = _colour(rng), _mix(paper, ink, rng.uniform(0, 0.12)), _mix(paper, ink, rng.uniform(0.1, 0.4))
    radius = int(rng.integers(0, 12))
    for y in range(0, SIDE, step):
        for x in range(0, SIDE, step + 60):
            box = (x + 6, y + 6, x + step + 54, y + step - 6)
            draw.rounded_rectangle(box, radius, card, line)
            size = int(rng.integers(9, 17))
            font = _font(rng, size)
            draw.text((x + 40, y + 12), _words(rng, step - 10, size), ink, font)
            draw.ellipse((x + 14, y + 12, x + 32, y + 30), _colour(rng))
            for below in range(y + 40, y + step - 40, size + 6):
                draw.text((x + 14, below), _words(rng, step + 20, size), _mix(ink, card, 0.3), font)
                draw.line((x + 14, below + size + 4, x + step + 44, below + size + 4), line)
            button = (x + 14, y + step - 34, x + 14 + step // 2, y + step - 14)
            draw.rounded_rectangle(button, radius, accent if rng.random() < 0.6 else None, accent)
            draw.text((button[0] + 8, button[1] + 3), _words(rng, step // 2 - 16, 11), ink, _font(rng, 11))
            tick = np.array([(20, -24), (26, -18), (38, -32)]) + (x + step, y + step)
            draw.line(tick.ravel().tolist(), ink, 2)
    return np.asarray(page)


def chart(rng: np.random.Generator) -> Pixels:
    """Axes, grids, curves, bars, points and slices, with their labels."""
    paper, ink = _contrast(rng)
    page = np.full((SIDE, SIDE, 3), paper, np.uint8)
    cell = SIDE // 3
    for y in range(0, SIDE - 8, cell):
        for x in range(0, SIDE - 8, cell):
            at = np.array([x + 45, y + cell - 40])
            width, height = cell - 60, cell - 60
            for k in range(1, 6):
                level = at[1] - height * k // 5
                cv2.line(page, (int(at[0]), int(level)), (int(at[0] + width), int(level)), _mix(paper, ink, 0.2), 1)
            kind = rng.integers(4)
            for _ in range(rng.integers(1, 4)):
                colour = _colour(rng)
                values = np.clip(0.5 + np.cumsum(rng.normal(0, 0.1, 24)), 0, 1)
                points = np.stack([at[0] + np.linspace(0, width, 24), at[1] - values * height], 1)
                if kind == 0:
                    _curve(page, points, colour, int(rng.integers(1, 4)))
                elif kind == 1:
                    for point in points.astype(int):
                        cv2.rectangle(page, tuple(map(int, point)), (int(point[0]) + 7, int(at[1])), colour, -1)
                elif kind == 2:
                    for point in points:
                        _disc(page, point, rng.uniform(1.5, 6), colour)
                else:
                    centre, radius = (int(at[0] + width / 2), int(at[1] - height / 2)), height // 2
                    start, angle = rng.uniform(0, 360), rng.uniform(40, 200)
                    cv2.ellipse(page, centre, (radius, radius), start, 0, angle, colour, -1, cv2.LINE_AA)
            cv2.line(page, (int(at[0]), y + 20), (int(at[0]), int(at[1])), ink, 1)
            cv2.line(page, (int(at[0]), int(at[1])), (int(at[0] + width), int(at[1])), ink, 1)
    lettered = Image.fromarray(page)
    draw, font = ImageDraw.Draw(lettered), _font(rng, int(rng.integers(9, 15)))
    for y in range(0, SIDE - 8, cell):
        for x in range(0, SIDE - 8, cell):
            draw.text((x + 60, y + 4), _words(rng, cell - 100, 12), ink, font)
            for k in range(6):
                draw.text((x + 8, y + cell - 48 - (cell - 60) * k // 5), f"{rng.uniform(0, 100):.1f}", ink, font)
                draw.text((x + 45 + (cell - 60) * k // 6, y + cell - 34), str(rng.integers(1900, 2100)), ink, font)
    return np.asarray(lettered)


def line_art(rng: np.random.Generator) -> Pixels:
    """Flat fills with outlines, and free strokes and hatching over them."""
    paper, ink = _contrast(rng)
    page = np.full((SIDE, SIDE, 3), paper, np.uint8)
    for _ in range(70):
        centre, radius = rng.uniform(0, SIDE, 2), rng.uniform(15, 140)
        angles = np.linspace(0, 2 * np.pi, 60)
        wobble = radius * (1 + 0.25 * np.sin(rng.integers(2, 6) * angles + rng.uniform(0, 6)))
        outline = centre + np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.4, 1)], 1) * wobble[:, None]
        if rng.random() < 0.6:
            cv2.fillPoly(page, [_fixed(outline)], _colour(rng), cv2.LINE_AA, _SHIFT)
        _curve(page, outline, ink, int(rng.integers(1, 5)))
    for _ in range(60):
        start, end, bend = (rng.uniform(0, SIDE, 2) for _ in range(3))
        t = np.linspace(0, 1, 50)[:, None]
        _curve(page, (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end, ink, int(rng.integers(1, 4)))
    for _ in range(12):
        corner, slope, gap = rng.uniform(0, SIDE, 2), rng.uniform(-40, 40), rng.uniform(3, 9)
        for k in range(25):
            across = corner + (k * gap, 0)
            _curve(page, np.stack([across, across + (slope, 80)]), ink, 1)
    return page


def dead_leaves(rng: np.random.Generator) -> Pixels:
    """Discs and boxes that hide each other, their sizes by a power law: the statistics of natural scenes
    (Lee, Mumford and Huang, IJCV 2001). Some leaves have grain."""
    page = np.full((SIDE, SIDE, 3), _colour(rng), np.uint8)
    for radius in 1 / rng.uniform(1 / 160, 1 / 3, 4000):
        centre, colour = rng.uniform(0, SIDE, 2), _colour(rng)
        if rng.random() < 0.6:
            _disc(page, centre, radius, colour)
        else:
            turn = rng.uniform(0, np.pi)
            corners = turn + np.array([0.6, np.pi - 0.6, np.pi + 0.6, -0.6])
            box = centre + radius * np.stack([np.cos(corners), np.sin(corners)], 1)
            cv2.fillPoly(page, [_fixed(box)], colour, cv2.LINE_AA, _SHIFT)
    grain = rng.normal(0, 12, (SIDE, SIDE, 1)) * (page[..., :1] % 4 == 0)
    return _levels(page + cv2.GaussianBlur(grain, (0, 0), 0.7)[..., None])


def patterns(rng: np.random.Generator) -> Pixels:
    """Sixteen tiles of stripes, checkers, rings and dots, down to two pixels a period; rings run into moiré."""
    page = np.empty((SIDE, SIDE, 3))
    side = SIDE // 4
    y, x = np.mgrid[:side, :side].astype(float)
    for top in range(0, SIDE, side):
        for left in range(0, SIDE, side):
            period, angle = 2 * np.exp(rng.uniform(0, 2.5)), rng.uniform(0, np.pi)
            u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
            v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period
            distance = np.hypot(x - rng.uniform(0, side), y - rng.uniform(0, side))
            wave = (
                np.sin(u),
                np.sin(u) * np.sin(v),
                np.sin(distance * 2 * np.pi / period),
                np.sin(distance**2 * np.pi / side / 2),
                np.sin(u) + np.sin(v) - rng.uniform(-1, 1),
            )[rng.integers(5)]
            # From a soft wave to an edge about one pixel wide.
            level = 0.5 + 0.5 * np.tanh(wave * rng.choice([0.8, period / 3]))
            a, b = np.array(_colour(rng)), np.array(_colour(rng))
            page[top : top + side, left : left + side] = a + (b - a) * level[..., None]
    return _levels(page)


def gradients(rng: np.random.Generator) -> Pixels:
    """Smooth areas such as skies, in which a network must not draw bands or texture. Dithered, as by cameras."""
    page = np.empty((SIDE, SIDE, 3))
    side = SIDE // 2
    y, x = np.mgrid[:side, :side] / side
    for top in (0, side):
        for left in (0, side):
            angle = rng.uniform(0, 2 * np.pi)
            slope = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
            round_ = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1))
            level = np.clip(0.5 + (slope if rng.random() < 0.5 else round_ - 0.5), 0, 1)[..., None]
            a, b = np.array(_colour(rng)), np.array(_colour(rng))
            page[top : top + side, left : left + side] = a + (b - a) * level
    return _levels(page + rng.uniform(-0.5, 0.5, page.shape))


KINDS: tuple[Callable[[np.random.Generator], Pixels], ...] = (
    text, interface, chart, line_art, dead_leaves, patterns, text, gradients,
)  # fmt: skip
_SHIFT = 4
"""Fractional bits of the coordinates that OpenCV draws at."""


def _contrast(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Of paper and ink; light on dark in a third of the pages, pure black on white in a third."""
    if rng.random() < 0.33:
        return (255, 255, 255), (0, 0, 0)
    light, dark = _mix(_colour(rng), (255, 255, 255), 0.85), _mix(_colour(rng), (0, 0, 0), 0.85)
    return (light, dark) if rng.random() < 0.5 else (dark, light)


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
    return red, green, blue


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    faces = fonts()
    return ImageFont.truetype(faces[rng.integers(len(faces))], size)


@cache
def fonts() -> list[str]:
    import matplotlib  # here, because it takes long, and few need fonts

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(str(path) for pattern in _FACES for path in folder.glob(pattern) if "Display" not in path.name)


def _words(rng: np.random.Generator, width: int, size: int) -> str:
    """About as many as fit."""
    line = ""
    while len(line) * size * 0.5 < width:
        if rng.random() < 0.12:
            line += f"{rng.integers(0, 10 ** int(rng.integers(1, 6)))} "
            continue
        word = "".join(rng.choice(_SYLLABLES, rng.integers(1, 5)))
        word = (word, word.capitalize(), word.upper())[rng.choice(3, p=(0.75, 0.2, 0.05))]
        line += word + (str(rng.choice(_SIGNS)) if rng.random() < 0.15 else "") + " "
    return line[: max(1, int(width / size * 2))]


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * (1 << _SHIFT)), np.int32)


def _curve(page: Pixels, points: NDArray[np.float64], colour: Colour, width: int) -> None:
    cv2.polylines(page, [_fixed(points)], False, colour, width, cv2.LINE_AA, _SHIFT)


def _disc(page: Pixels, centre: NDArray[np.float64], radius: float, colour: Colour) -> None:
    x, y = (int(value) for value in _fixed(centre))
    cv2.circle(page, (x, y), round(radius * (1 << _SHIFT)), colour, -1, cv2.LINE_AA, _SHIFT)


def _levels(page: NDArray[np.float64]) -> Pixels:
    return np.asarray(np.clip(np.rint(page), 0, 255), np.uint8)
