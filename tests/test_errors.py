"""The tree of errors is the same as in the docstring."""

import re

from server import errors
from server.errors import BY_CODE, InvalidField, UpscaleError

Drawn = tuple[str, int | None]
"""A class's name and its status."""


def drawn() -> set[tuple[str, Drawn]]:
    """(parent, (class, status)) of every line of the docstring's tree."""
    found: set[tuple[str, Drawn]] = set()
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:[│ ]   )*)(?:[├└]── )?(\w+)(?: +(\d{3})\b.*)?$", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + ("──" in line)
        ancestors[depth:] = [match[2]]
        found.add((ancestors[depth - 1] if depth else "", (match[2], int(match[3]) if match[3] else None)))
    return found


def actual(cls: type[UpscaleError] = UpscaleError, parent: str = "") -> set[tuple[str, Drawn]]:
    found: set[tuple[str, Drawn]] = {(parent, (cls.__name__, cls.status if parent else None))}
    ours = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return found.union(*(actual(child, cls.__name__) for child in ours))


def test_the_drawing_is_the_tree() -> None:
    assert drawn() == actual()


def test_every_class_is_found_by_a_code_of_its_own() -> None:
    assert {cls.__name__ for cls in BY_CODE.values()} == {name for _, (name, _) in actual()}
    assert all(BY_CODE[cls.code] is cls for cls in BY_CODE.values())


def test_an_error_carries_words_for_the_caller_and_the_field() -> None:
    error = InvalidField("scale must be more than 0", field="scale")
    assert (str(error), error.message, error.field) == (
        "scale must be more than 0",
        "scale must be more than 0",
        "scale",
    )
    assert UpscaleError("broken").field is None
