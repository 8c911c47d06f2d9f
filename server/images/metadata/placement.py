"""How positions in the source become positions in the result: rotated or mirrored upright, then enlarged."""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""left, top, width, height"""


@dataclass(frozen=True)
class Placement:
    orientation: int
    """1 … 8 as in EXIF, of the picture as it is stored."""
    before: tuple[int, int]
    """Width and height of the source, as stored."""
    after: tuple[int, int]
    """Width and height of the result, which is upright."""

    @property
    def turns(self) -> bool:
        """Width becomes height."""
        return self.orientation >= 5

    @property
    def upright(self) -> tuple[int, int]:
        """The source's width and height after rotation."""
        w, h = self.before
        return (h, w) if self.turns else (w, h)

    @property
    def scale(self) -> tuple[float, float]:
        """From the upright source to the result: horizontal, vertical."""
        w, h = self.upright
        return self.after[0] / w, self.after[1] / h

    def box(self, box: Box) -> Box:
        """A box, or a point as a box without size, in pixels of the stored picture → in pixels of the result."""
        x, y, w, h = self.turned(box)
        across, down = self.scale
        return x * across, y * down, w * across, h * down

    def turned(self, box: Box) -> Box:
        """The box in pixels of the upright source."""
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
        """EXIF's SubjectArea or SubjectLocation: two numbers (a point), three (a circle) or four (centre and size of a
        box)."""
        x, y, *sizes = numbers
        w, h = (sizes * 2)[:2] if sizes else (0.0, 0.0)
        left, top, width, height = self.box((x - w / 2, y - h / 2, w, h))
        new = [left + width / 2, top + height / 2, width, height]
        if len(numbers) == 3:
            new[2] = (width + height) / 2
        return [round(number) for number in new[: len(numbers)]]

    def of(self, whole: tuple[float, float]) -> "Placement":
        """The same rotation and scale for an area of another size, such as the panorama that contains the picture."""
        w, h = round(whole[0]), round(whole[1])
        across, down = self.scale
        wide, high = (h, w) if self.turns else (w, h)
        return Placement(self.orientation, (w, h), (round(wide * across), round(high * down)))
