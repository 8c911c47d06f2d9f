"""Where a result stays the faithful one: a caller's boxes, or a picture."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from server.errors import InvalidField, UpscaleError

Box = tuple[int, int, int, int]
"""left, top, width, height in pixels of the upright source."""
Keep = Literal["inside", "outside"]

KEPT_CREATIVITY = -2.0
"""Of the result that a mask keeps."""
MASKED = ", masked "
"""Between the networks' names of the result that was asked for and those of the one that a mask keeps."""
KEPT_STEP = "kept "
"""Before the name of a step that makes the result that a mask keeps."""

MOST_BOXES = 1000
_LARGEST = 1_000_000
"""Of any number of a box: no picture is larger."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """What is kept is the result of creativity −2, exactly. Either boxes or a picture are given. Raises
    InvalidField."""

    boxes: tuple[Box, ...] | None = None
    """They may overlap, and reach over the picture's borders. None at all is a mask that covers nothing."""
    image: str | None = None
    """The blob of the mask's picture, or "" until it is stored. Stretched to the source's size; white is covered, black
    and transparent is not, grey is a mixture."""
    keep: Keep = "inside"
    """Whether what is covered is kept, or all the rest."""

    def __post_init__(self) -> None:
        if (self.boxes is None) == (self.image is None):
            raise InvalidField("give either the boxes or the image of a mask", field="mask")
        if self.keep not in get_args(Keep):
            raise InvalidField("keep of a mask must be inside or outside", field="mask")
        if len(self.boxes or ()) > MOST_BOXES:
            raise InvalidField(f"a mask has at most {MOST_BOXES} boxes; use an image", field="mask")
        for box in self.boxes or ():
            whole = len(box) == 4 and all(type(value) is int and 0 <= value <= _LARGEST for value in box)
            if not whole or min(box[2:]) < 1:
                raise InvalidField(
                    "a box of a mask is four whole numbers: left and top of at least 0, width and height of at least 1",
                    field="mask",
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Mask":
        boxes = values.get("boxes")
        return cls(**{**values, "boxes": None if boxes is None else tuple(tuple(box) for box in boxes)})


def of_mask(error: UpscaleError) -> UpscaleError:
    """The same error about a picture, which is the mask's and not the source."""
    return type(error)(f"the mask: {error.message}", field="mask")
