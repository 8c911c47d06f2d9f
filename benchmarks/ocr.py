"""Text recognition with tesseract, and the share of the characters that is right.

It gets only lines whose text is known: they are cut out of the result, converted to black on white, and placed in one
column, so that the detection of lines has no influence. Debian: `apt-get install tesseract-ocr`.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pages import Line
from training.dataset import Pixels

MARGIN = 12
LANGUAGE = "eng"


def missing() -> str | None:
    """Why tesseract can't be used, as a message; None if it can."""
    if which("tesseract") is None:
        return "tesseract is not installed (Debian: tesseract-ocr), so no text is read"
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=False)
    if LANGUAGE not in (listed.stdout + listed.stderr).split():
        return f"tesseract lacks its language {LANGUAGE} (Debian: tesseract-ocr-eng), so no text is read"
    return None


def read(column: NDArray[np.uint8]) -> str:
    """The text of a grey picture with one column of lines."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "column.png"
        Image.fromarray(column).save(path)
        command = ["tesseract", str(path), "-", "-l", LANGUAGE, "--psm", "6", "--dpi", "300"]
        one_thread = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread).stdout


def column_of(pixels: Pixels, lines: Sequence[Line], scale: int) -> NDArray[np.uint8]:
    """The lines, whose boxes are in source pixels, cut out and placed in one column, black on white."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    cuts = []
    for line in lines:
        left, top, right, bottom = (side * scale for side in line.box)
        cuts.append(_black_on_white(grey[max(0, top) : bottom, max(0, left - scale) : right + scale]))
    width = max(each.shape[1] for each in cuts) + 2 * MARGIN
    column = np.full((sum(each.shape[0] + MARGIN for each in cuts) + MARGIN, width), 255, np.uint8)
    top = MARGIN
    for each in cuts:
        column[top : top + each.shape[0], MARGIN : MARGIN + each.shape[1]] = each
        top += each.shape[0] + MARGIN
    return column


def read_whole(pixels: Pixels) -> str:
    """The text of a picture whose lines are not known."""
    return read(np.pad(_black_on_white(np.asarray(Image.fromarray(pixels).convert("L"))), MARGIN, constant_values=255))


def _black_on_white(cut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most frequent level becomes white; light text on dark is inverted."""
    paper = float(np.median(cut))
    levels = cut.astype(np.float64)
    if paper < 128:
        levels, paper = 255 - levels, 255 - paper
    return np.clip(np.rint(levels * (255 / max(paper, 1))), 0, 255).astype(np.uint8)


def accuracy(pixels: Pixels, lines: Sequence[Line], scale: int) -> float:
    """Share of the characters in the lines that are read right, 0 … 1."""
    return likeness(read(column_of(pixels, lines, scale)), "\n".join(line.text for line in lines))


def likeness(found: str, wanted: str) -> float:
    """1 minus the characters to insert, delete or change, by the length of what is wanted; never below 0. Runs of
    blanks and line ends count as one blank."""
    ours, theirs = " ".join(found.split()), " ".join(wanted.split())
    if not theirs:
        return 1.0 if not ours else 0.0
    return max(0.0, 1 - distance(ours, theirs) / len(theirs))


def distance(one: str, other: str) -> int:
    """Levenshtein's, by Myers' bit vectors (J. ACM 46, 1999): a row of the table is one whole number."""
    if not one or not other:
        return len(one) + len(other)
    every = (1 << len(one)) - 1
    top = 1 << (len(one) - 1)
    where: dict[str, int] = {}
    for k, sign in enumerate(one):
        where[sign] = where.get(sign, 0) | 1 << k
    up, down, score = every, 0, len(one)
    for sign in other:
        same = where.get(sign, 0)
        zero = (((same & up) + up) ^ up) | same | down
        more, less = down | ~(zero | up) & every, up & zero
        score += bool(more & top) - bool(less & top)
        more, less = (more << 1 | 1) & every, less << 1 & every
        up, down = less | ~(zero | more) & every, more & zero
    return score
