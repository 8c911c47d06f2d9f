"""Bars as inline SVG. Lengths are parts of the width and text keeps its size, so that a phone shows them as well.

Every chart says in words what it shows; the table of the report has the same figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, BAR, TOP = 50, 16, 22
"""Pixels: of a row, of its bar, and from a row's upper edge to its bar."""


@dataclass(frozen=True)
class Bar:
    label: str
    parts: Sequence[tuple[str, float]]
    """(css class, length in the chart's unit), from the left."""
    text: str
    """At the right: the value."""
    mark: float | None = None
    """A tick further on, such as p95."""
    said: str = ""
    """The row in words, if `text` is not enough."""


def bars(title: str, rows: Sequence[Bar], low: float = 0.0) -> str:
    """`low` is where the axis begins."""
    lengths = [max(sum(length for _, length in row.parts), row.mark or 0.0) for row in rows]
    span = max([*lengths, low]) - low or 1.0

    def part(value: float) -> float:
        return max(0.0, min(1.0, (value - low) / span)) * 100

    drawn = []
    for number, row in enumerate(rows):
        y, reached = number * ROW, 0.0
        drawn.append(f'<text x="0" y="{y + 15}">{escape(row.label)}</text>')
        drawn.append(f'<text x="100%" y="{y + 15}" text-anchor="end" class="value">{escape(row.text)}</text>')
        drawn.append(f'<rect x="0" y="{y + TOP}" width="100%" height="{BAR}" class="track"/>')
        for kind, length in row.parts:
            left, right = part(reached), part(reached + length)
            reached += length
            drawn.append(
                f'<rect x="{left:.2f}%" y="{y + TOP}" width="{right - left:.2f}%" height="{BAR}" class="{kind}"/>'
            )
        if row.mark is not None:
            x = min(part(row.mark), 99.4)
            drawn.append(f'<rect x="{x:.2f}%" y="{y + TOP - 3}" width="3" height="{BAR + 6}" class="mark"/>')
    said = "; ".join(f"{row.label}: {row.said or row.text}" for row in rows)
    return (
        f'<svg role="img" aria-label="{escape(f"{title}. {said}")}" width="100%" height="{len(rows) * ROW}">'
        + "".join(drawn)
        + "</svg>"
    )
