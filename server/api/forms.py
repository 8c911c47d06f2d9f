"""Forms: their fields may be pictures in base64, so long ones are read in pieces, as LongTexts."""

import codecs
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import unquote_plus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from server.api.large_json import find
from server.errors import InvalidField, cut
from server.outbound.source import LONG, LongText, text_in_pieces, unquoted

_MAX_FIELDS, _LONGEST_NAME = 1000, 1000
_Decoder = codecs.getincrementaldecoder("utf-8")
"""Of long texts, whatever the form says of itself: a picture in base64 is the same in all encodings."""


def read_urlencoded(body: bytes, exact: str) -> list[tuple[str, str]]:
    """The fields of a URL-encoded form. In the field `exact` a plus stays a plus: base64 has them, and `curl -d` does
    not encode them. Raises InvalidField."""
    fields, place, number = list[tuple[str, str]](), 0, 0
    while place < len(body):
        number += 1
        if number > _MAX_FIELDS:
            raise InvalidField(f"the form has more than {_MAX_FIELDS} fields")
        end = find(body, b"&", place)
        end = len(body) if end < 0 else end
        name, equals, _ = body[place : min(end, place + _LONGEST_NAME)].partition(b"=")
        if not equals and end - place > _LONGEST_NAME:
            raise InvalidField(f"a field's name has more than {_LONGEST_NAME} bytes")
        if end > place:
            start = place + len(name) + len(equals)
            field = unquote_plus(name.decode("latin-1"))
            fields.append((field, text_in_pieces(unquoted(_texts(body, start, end, plus=field == exact)))))
        place = end + 1
    return fields


def _texts(body: bytes, start: int, end: int, *, plus: bool) -> Iterator[str]:
    for place in range(start, end, LONG):
        text = body[place : min(end, place + LONG)].decode("latin-1")
        yield text if plus else text.replace("+", " ")


def _checked(form: FormData) -> FormData:
    """Raises InvalidField for a form that has a field more than once: which of them counts would be a guess."""
    for name, count in Counter(name for name, _ in form.multi_items()).items():
        if count > 1:
            raise InvalidField(f"{cut(name)} is in the form {count} times: send it once", field=cut(name))
    return form


async def urlencoded_form(body: bytes, exact: str = "") -> FormData:
    """Raises InvalidField."""
    return _checked(FormData([*await run_in_threadpool(read_urlencoded, body, exact)]))


@asynccontextmanager
async def multipart_form(request: Request, max_text_bytes: int = LONG) -> AsyncIterator[FormData]:
    """`max_text_bytes`: of a field that is no file. Raises HTTPException."""
    try:
        async with aclosing(request.stream()) as stream:
            form = await _Parser(request.headers, stream, max_part_size=max_text_bytes).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    try:
        yield _checked(form)
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """A long text is decoded as it comes: at its end, that would stop the event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._texts = list[str]()
        self._decoder = _Decoder("replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self._texts) * LONG + end - start > self.max_part_size:
            raise MultiPartException(f"Part exceeded maximum size of {self.max_part_size // 1024}KB.")
        super().on_part_data(data, start, end)
        text = self._current_part.data
        if len(text) >= LONG:
            self._texts.append(self._decoder.decode(bytes(text)))
            text.clear()

    def on_part_end(self) -> None:
        if not self._texts:
            super().on_part_end()
            return
        self._texts.append(self._decoder.decode(bytes(self._current_part.data), final=True))
        self.items.append((self._current_part.field_name, LongText(self._texts)))
        self._texts, self._decoder = [], _Decoder("replace")
