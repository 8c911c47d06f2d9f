"""How places in the source's file become places in the result: turned upright, then enlarged."""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""left, top, width, height"""


@dataclass(frozen=True)
class Change:
    orientation: int
    """1 … 8 as in EXIF, of the picture as it is stored."""
    before: tuple[int, int]
    """Width and height, as stored."""
    after: tuple[int, int]
    """Of the result, which is upright."""

    @property
    def turns(self) -> bool:
        """Width becomes height."""
        return self.orientation >= 5

    @property
    def upright(self) -> tuple[int, int]:
        """The source's size when it is upright."""
        w, h = self.before
        return (h, w) if self.turns else (w, h)

    @property
    def scale(self) -> tuple[float, float]:
        """Of the upright picture, across and down."""
        w, h = self.upright
        return self.after[0] / w, self.after[1] / h

    def box(self, box: Box) -> Box:
        """A box, or a point of no size, in pixels of the stored picture → in pixels of the result."""
        x, y, w, h = self.turned(box)
        across, down = self.scale
        return x * across, y * down, w * across, h * down

    def turned(self, box: Box) -> Box:
        x, y, w, h = box
        right, bottom = self.before[0] - x - w, self.before[1] - y - h
        return {
            2: (right, y, w, h),
            3: (right, bottom, w, h),
            4: (x, bottom, w, h),
            5: (y, x, h, w),
            6: (bottom, x, h, w),
            7: (bottom, right, h, w),
            8: (y, right, h, w),
        }.get(self.orientation, box)

    def subject(self, numbers: Sequence[float]) -> list[int]:
        """EXIF's SubjectArea or SubjectLocation: two numbers (a point), three (a circle) or four (a box around its
        middle)."""
        x, y, *sizes = numbers
        w, h = (sizes * 2)[:2] if sizes else (0.0, 0.0)
        left, top, width, height = self.box((x - w / 2, y - h / 2, w, h))
        new = [left + width / 2, top + height / 2, width, height]
        if len(numbers) == 3:
            new[2] = (width + height) / 2
        return [round(number) for number in new[: len(numbers)]]

    def of(self, whole: tuple[float, float]) -> "Change":
        """The same change of another area that goes along, such as the panorama that the picture is a part of."""
        w, h = round(whole[0]), round(whole[1])
        across, down = self.scale
        wide, high = (h, w) if self.turns else (w, h)
        return Change(self.orientation, (w, h), (round(wide * across), round(high * down)))
