"""VibeDream: submit, result and sync mode, under `/api/v1`.

    POST /api/v1/models/image-upscaler/generate   a picture's URL, data URI or base64, target and format, both required
    GET  /api/v1/predictions/{id}                 the prediction; ids are UUIDs, with or without their dashes

The vendor has no SDK and documents no errors, no uploads, no webhooks, no listing and no deletion; this dialect has
none either. Where its page is silent:

* Unknown fields are ignored, and null counts as absent; known fields of a wrong type or value are refused with 400.
* Any fault of the picture itself makes a prediction that fails: `status` "failed", the reason in `error`.
* A submit is always answered with `status` "processing", as the vendor documents, even when the picture is already
  known to be bad; the first poll reports that. `estimatedTime` is the vendor's own text, not an estimate.
* `costCents` is the price for the result's size, rounded up to a cent. The size of a picture that is still to be
  fetched is not known: then it is the price per job alone. A failed prediction costs nothing.
* Sync mode answers with the fields of both bodies, the submit's and the finished prediction's, so that clients can read
  either. When the time runs out it answers as an ordinary submit does, and the job continues.
* `enable_base64_output` puts plain base64 into `outputs`, in sync answers and in polls.
* A cancelled prediction is `failed` with the error "the prediction was cancelled".
* Of an animated GIF, the first picture is taken.
* Errors are `{"error": text, "message": text}`: a client may read either.
"""

from server.api.dialects.vibedream import openapi
from server.api.dialects.vibedream.routes import router
from server.api.dialects.vibedream.translate import NAME, PREFIXES, to_error

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error"]
