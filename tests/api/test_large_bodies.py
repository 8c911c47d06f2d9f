"""Large JSON bodies: what makes them large must be a value. They are read in pieces, and nothing of them is lost."""

import base64
import json
from typing import Any

import pytest

from server.api.dialects.fields import read_json
from server.errors import InvalidField, InvalidRequest
from server.outbound.source import parse_source
from tests.conftest import Live

LARGE = "A" * 3_000_000


@pytest.mark.parametrize(
    "value",
    [
        {"image": LARGE},
        {"image": LARGE, "scale": 2, "more": [LARGE, {"deep": LARGE}]},
        {"image": LARGE + '"quoted" and \\ back \\\\" slashes \\\\'},
        {"a/b": LARGE + "/" * 1000 + "\n" * 1000},
        {"ä": "ü" * 2_000_000},
        [{"taskType": "x", "image": LARGE} for _ in range(5)],
        {"n" * 900: LARGE},
    ],
)
@pytest.mark.parametrize("indent", [None, 4])
def test_a_large_body_is_read_whole(value: Any, indent: int | None) -> None:
    assert read_json(json.dumps(value, indent=indent).encode()) == value
    assert read_json(json.dumps(value, indent=indent, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"' + "k" * 2_000_000 + '": 1}',
        '{"' + "k" * 2_000_000 + '"' + " " * 60_000 + ": 1}",
        "{" + " " * 2_000_000 + "}",
        '{"a": 1' + " " * 2_000_000 + "}",
        '{"a": "' + '\\"' * 1_000_000 + '" "' + '" "' * 100_000 + '"}',
        '{"a": "' + "\\" * 2_000_001 + '"}',
        '{"a": "' + "x" * 2_000_000,
        '{"a": "' + "x" * 2_000_000 + "\n" + '"}',
        '"' * 2_000_000,
    ],
    ids=[
        "name",
        "name and blanks",
        "blanks",
        "blanks at the end",
        "quotes",
        "slashes",
        "no end",
        "a line's end",
        "nothing but quotes",
    ],
)
def test_a_body_that_is_large_for_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_json(text.encode())


@pytest.mark.parametrize("size", [0, 1, 2, 3, 786_431, 786_432, 786_433, 2_000_000])
@pytest.mark.parametrize("cut", [0, 76])
def test_base64_in_pieces_is_that_of_the_whole(size: int, cut: int) -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(n * 7 % 251 for n in range(size))
    text = base64.b64encode(data).decode()
    if cut:
        text = "\r\n".join(text[start : start + cut] for start in range(0, len(text), cut))
    for written in (text, text.rstrip("="), text.replace("+", "-").replace("/", "_"), text + "\n"):
        assert parse_source(written, ()).data == data


@pytest.mark.parametrize("place", [0, 10, 1 << 20, (1 << 20) + 3])
def test_padding_in_the_middle_is_no_base64(place: int) -> None:
    text = "QUJD" * 600_000
    with pytest.raises(InvalidField):
        parse_source(text[:place] + "QQ==" + text[place:], ())


def test_a_large_body_comes_through_every_door(live: Live) -> None:
    """The answer says that it is not a picture: so the body was read."""
    image = base64.b64encode(b"no picture" * 200_000).decode()
    answer = live.client.post("/jobs", json={"image": image})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "source_unreadable")
    accepted = live.client.post("/api/v3/wavespeed-ai/real-esrgan", json={"image": image}).json()["data"]
    assert accepted["status"] == "failed" and accepted["code"] == 1402
