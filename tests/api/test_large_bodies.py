"""Large JSON bodies: what makes them large must be a value. They are read in pieces, and nothing of them is lost."""

import base64
import json
import random
from typing import Any
from urllib.parse import quote_plus

import pytest

from server.api.dialects.fields import read_json, shown_picture
from server.api.forms import read_urlencoded
from server.errors import InvalidField, InvalidRequest
from server.outbound.source import LONG, LongText, parse_source
from tests.conftest import Live, Picture

LARGE = "A" * 3_000_000


def whole(value: Any) -> Any:
    if isinstance(value, LongText):
        return "".join(value.pieces)
    if isinstance(value, list):
        return [whole(each) for each in value]
    return {name: whole(each) for name, each in value.items()} if isinstance(value, dict) else value


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
    assert whole(read_json(json.dumps(value, indent=indent).encode())) == value
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    for body in (text, text.encode("utf-8-sig"), text.encode("utf-16"), text.encode("utf-16-le")):
        assert whole(read_json(body)) == value


@pytest.mark.parametrize("escape", [r"\/", r"\\", r"\"", r"\u00fc", "ü", "€", "😀"])
def test_no_piece_ends_within_an_escape_or_a_character(escape: str) -> None:
    for shift in range(0, 70, 7):
        unit = escape * 3 + "A" * 50
        text = "x" * shift + unit * (LONG // len(unit.encode()) + 2)
        body = f'{{"a": "{text}"}}'
        read = read_json(body.encode())["a"]
        assert isinstance(read, LongText) and len(read.pieces) > 1
        assert "".join(read.pieces) == json.loads(body)["a"]


def test_a_long_text_is_no_other_value_than_a_picture() -> None:
    image = "data:image/png;base64," + LARGE
    text = read_json(json.dumps({"image": image}).encode())["image"]
    assert text == shown_picture(text) == shown_picture(image) == "<data:image/png;base64, 3000022 characters>"
    with pytest.raises(InvalidField):
        parse_source(str(text), ())


def test_a_long_address_or_a_body_of_many_long_texts_is_refused() -> None:
    with pytest.raises(InvalidField):
        parse_source(LongText(["http://localhost/" + LARGE, LARGE]), ())
    with pytest.raises(InvalidRequest):
        read_json(json.dumps({f"{n}": "x" * 900 for n in range(6000)}).encode())


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
        assert parse_source(in_pieces(written), ()).data == data
        assert parse_source(in_pieces(f"data:image/png;base64,{written}"), ()).data == data
    escaped = "%" + data.hex("%")
    assert parse_source(in_pieces(f"data:image/png,{escaped}"), ()).data == data


@pytest.mark.parametrize("place", [0, 10, 1 << 20, (1 << 20) + 3])
def test_padding_in_the_middle_is_no_base64(place: int) -> None:
    text = "QUJD" * 600_000
    for given in (text[:place] + "QQ==" + text[place:], in_pieces(text[:place] + "QQ==" + text[place:])):
        with pytest.raises(InvalidField):
            parse_source(given, ())


@pytest.mark.parametrize("name", ["image", "other"])
def test_a_field_of_a_form_is_read_in_pieces(name: str) -> None:
    text = base64.b64encode(random.Random(1).randbytes(1_500_000)).decode()
    sent = text if name == "image" else quote_plus(text)
    read = dict(read_urlencoded(f"{name}={sent}&scale=2&&b&c=%C3%BC+1".encode(), "image"))
    assert isinstance(read[name], LongText)
    assert whole(read) == {name: text, "scale": "2", "b": "", "c": "ü 1"}


@pytest.mark.parametrize("body", [b"a=1&" * 1001, b"n" * 2000 + b"=1", b"n" * 3_000_000])
def test_a_form_of_many_fields_or_of_a_long_name_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField):
        read_urlencoded(body, "image")


def in_pieces(text: str) -> LongText:
    """Cut where no piece of it is like another."""
    cuts = [0, 1000, *range(5000, len(text), 999_999), len(text)]
    return LongText(text[start:end] for start, end in zip(cuts, cuts[1:], strict=False))


def test_a_large_body_comes_through_every_door(live: Live, picture: Picture) -> None:
    """The answer says that it is not a picture: so the body was read."""
    image = base64.b64encode(b"no picture" * 200_000).decode()
    answer = live.client.post("/jobs", json={"image": image})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "source_unreadable")
    for form in ({"data": {"image": image}}, {"files": {"image": (None, image)}}):
        answer = live.client.post("/jobs", **form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "source_unreadable")
    mask = {"image": picture(), "mask": json.dumps({"image": image})}
    answer = live.client.post("/jobs", files={"mask": (None, mask["mask"]), "file": ("x.png", mask["image"])})
    assert (answer.json()["error"]["code"], answer.json()["error"]["field"]) == ("source_unreadable", "mask")
    accepted = live.client.post("/api/v3/wavespeed-ai/real-esrgan", json={"image": image}).json()["data"]
    assert accepted["status"] == "failed" and accepted["code"] == 1402
