"""What the client raises. Messages are the server's own.

    UpscaleError
    ├── InvalidRequest     a field is missing, has a wrong type or is out of range: see `field`
    ├── Unauthorized       no key, or an invalid one
    ├── Forbidden          the server does not answer this Host or Origin
    ├── NotFound           no such job, or it belongs to another key
    ├── Conflict           the job is in a state that does not allow this
    ├── TooLarge           the request's body is over the server's limit
    ├── UnsupportedMedia   the body is not of a kind that the server takes
    ├── BadSource          the picture can't be downloaded or read, or is too large: see `code`
    ├── ModelNotFound      no such network, or its weights are not installed
    ├── OutOfMemory        the device of the server has too little memory
    ├── TooManyRequests    the queue is full, or a limit of the key is reached
    ├── Unavailable        the server starts, stops, or lacks its disk or database
    ├── JobFailed          the work failed inside the server
    ├── JobCancelled       the job was cancelled
    ├── ServerFault        an error inside the server, or an answer that is not the server's own
    ├── Unreachable        no answer: the address is wrong, the connection broke, or it took too long
    └── StillRunning       the job has not ended within `timeout_s`; it continues

`code` is a code of docs/api.md; it is empty in Unreachable, StillRunning, and where the answer was another program's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscale_client.answers import Job


class UpscaleError(Exception):
    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
        job: Job | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        """HTTP status of the answer; None for jobs that failed, and without an answer."""
        self.field = field
        """The field that is wrong, or None."""
        self.retry_after_s = retry_after_s
        """After how many seconds the server says that a new try makes sense, or None."""
        self.job = job
        """The job that failed, was cancelled or still runs; None for refused requests."""


class InvalidRequest(UpscaleError):
    pass


class Unauthorized(UpscaleError):
    pass


class Forbidden(UpscaleError):
    pass


class NotFound(UpscaleError):
    pass


class Conflict(UpscaleError):
    pass


class TooLarge(UpscaleError):
    pass


class UnsupportedMedia(UpscaleError):
    pass


class BadSource(UpscaleError):
    pass


class ModelNotFound(UpscaleError):
    pass


class OutOfMemory(UpscaleError):
    pass


class TooManyRequests(UpscaleError):
    pass


class Unavailable(UpscaleError):
    pass


class JobFailed(UpscaleError):
    pass


class JobCancelled(UpscaleError):
    pass


class ServerFault(UpscaleError):
    pass


class Unreachable(UpscaleError):
    pass


class StillRunning(UpscaleError, TimeoutError):
    pass


BY_CODE: dict[str, type[UpscaleError]] = {
    "invalid_request": InvalidRequest,
    "missing_field": InvalidRequest,
    "invalid_field": InvalidRequest,
    "result_impossible": InvalidRequest,
    "method_not_allowed": InvalidRequest,
    "range_not_satisfiable": InvalidRequest,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "conflict": Conflict,
    "too_large": TooLarge,
    "head_too_large": TooLarge,
    "unsupported_media_type": UnsupportedMedia,
    "bad_source": BadSource,
    "source_unreachable": BadSource,
    "source_not_allowed": BadSource,
    "source_too_large": BadSource,
    "source_unreadable": BadSource,
    "model_not_found": ModelNotFound,
    "out_of_memory": OutOfMemory,
    "too_many_requests": TooManyRequests,
    "unavailable": Unavailable,
    "job_failed": JobFailed,
    "cancelled": JobCancelled,
    "internal": ServerFault,
}
"""The class of every code of the server."""

BY_STATUS: dict[int, type[UpscaleError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
"""For answers that are not the server's own, such as a proxy's."""
