"""The error tree. Every error whose reason a caller can understand is one of these.

    UpscaleError
    ├── InvalidRequest            400  the request is not valid
    │   ├── MissingField          400  a required field is absent or empty
    │   ├── InvalidField          400  a field has a wrong type or is out of range
    │   └── ResultImpossible      400  the format can't hold that result, or it is over the operator's limit
    ├── Unauthorized              401
    ├── Forbidden                 403
    ├── NotFound                  404
    ├── MethodNotAllowed          405
    ├── Conflict                  409  the job is in a state that does not allow this
    ├── TooLarge                  413  the request body is over the limit
    │   └── HeadTooLarge          431  the request's address and header fields are over the limit
    ├── UnsupportedMedia          415  the body is not of a supported kind
    ├── RangeNotSatisfiable       416  none of the requested bytes are in the file
    ├── TooManyRequests           429  the queue is full, or a limit of the key is reached
    ├── BadSource                 422  the source picture
    │   ├── SourceUnreachable     422  could not be downloaded
    │   ├── SourceNotAllowed      422  is at an address that this server must not fetch from
    │   ├── SourceTooLarge        422  has too many bytes or pixels
    │   └── SourceUnreadable      422  is not a picture, or is damaged
    ├── ModelNotFound             422  no such model, or its weights are not installed
    ├── JobCancelled              499
    ├── OutOfMemory               507  even the smallest tile does not fit in the device's memory
    ├── JobFailed                 500  the pipeline failed, or its worker died several times
    └── Unavailable               503  not ready yet, shutting down, or without its disk or database at the moment

`message` is for the caller; private details go to the log through `raise … from error`. Dialects translate `status` and
`code` to their vendor's format; a failed job keeps `code` and `message` in its row.
"""

import math
from collections.abc import Iterator, Mapping

_LONGEST_NAME, _LONGEST_MESSAGE = 100, 2000


def cut(text: str, most: int = _LONGEST_NAME) -> str:
    """A caller's text for a response or the log: at most `most` characters, and an ellipsis if it is longer."""
    return text if len(text) <= most else text[:most] + "…"


class UpscaleError(Exception):
    status = 500
    code = "internal"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        message = cut(message, _LONGEST_MESSAGE)
        super().__init__(message)
        self.message = message
        self.field = None if field is None else cut(field)
        """The request field that is wrong, spelled as in the request, or None."""

    @property
    def headers(self) -> dict[str, str]:
        """HTTP header fields of the response, in every dialect."""
        return {}


class InvalidRequest(UpscaleError):
    status, code = 400, "invalid_request"


class MissingField(InvalidRequest):
    code = "missing_field"


class InvalidField(InvalidRequest):
    code = "invalid_field"


class ResultImpossible(InvalidRequest):
    code = "result_impossible"


class Unauthorized(UpscaleError):
    status, code = 401, "unauthorized"


class Forbidden(UpscaleError):
    status, code = 403, "forbidden"


class NotFound(UpscaleError):
    status, code = 404, "not_found"


class MethodNotAllowed(UpscaleError):
    status, code = 405, "method_not_allowed"


class Conflict(UpscaleError):
    status, code = 409, "conflict"


class TooLarge(UpscaleError):
    status, code = 413, "too_large"


class HeadTooLarge(TooLarge):
    status, code = 431, "head_too_large"


class UnsupportedMedia(UpscaleError):
    status, code = 415, "unsupported_media_type"

    def __init__(self, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, field=field)
        self._headers = dict(headers or {})

    @property
    def headers(self) -> dict[str, str]:
        return self._headers


class RangeNotSatisfiable(UpscaleError):
    status, code = 416, "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes, and none of those that the Range header asks for")
        self._size = size

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Range": f"bytes */{self._size}"}


class TooManyRequests(UpscaleError):
    status, code = 429, "too_many_requests"

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float = 5.0) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        """Whole seconds after which a retry makes sense; an estimate if that depends on other jobs."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class BadSource(UpscaleError):
    status, code = 422, "bad_source"


class SourceUnreachable(BadSource):
    code = "source_unreachable"


class SourceNotAllowed(BadSource):
    code = "source_not_allowed"


class SourceTooLarge(BadSource):
    code = "source_too_large"


class SourceUnreadable(BadSource):
    code = "source_unreadable"


class ModelNotFound(UpscaleError):
    status, code = 422, "model_not_found"


class JobCancelled(UpscaleError):
    status, code = 499, "cancelled"


class OutOfMemory(UpscaleError):
    status, code = 507, "out_of_memory"


class JobFailed(UpscaleError):
    status, code = 500, "job_failed"


class Unavailable(UpscaleError):
    status, code = 503, "unavailable"

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float = 10.0) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        """As in TooManyRequests; nearly always an estimate."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


def _tree(cls: type[UpscaleError]) -> Iterator[type[UpscaleError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[UpscaleError]] = {cls.code: cls for cls in _tree(UpscaleError)}
"""The class of an error by its code, as stored in a job's row."""
