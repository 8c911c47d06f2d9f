"""Novita: the image upscaler, the older upscaler, their results and webhooks, under `/v3`.

    POST /v3/async/image-upscaler       a picture's URL, data URI or base64, `resolution` and `output_format`
    POST /v3/async/upscale              the older API: a picture in base64 and a `scale_factor`, 1 < factor ≤ 4
    GET  /v3/async/task-result?task_id= the task; ids are UUIDs, with or without their dashes

Answers are readable by the vendor's own Python client, unlike the samples in its documents: no floats, always `extra`,
`nsfw_detection_result` null, only four statuses. Where the documents are silent:

* Unknown fields are ignored, and null counts as absent; known fields of a wrong type or value are refused with 400.
* Any fault of the picture itself makes a task that fails, with its `reason`. So does a cancelled one.
* `image_url_ttl` is the time in seconds until the picture is removed: the setting `keep_s`, when the picture is new.
* `model_name` of the older API is one of the vendor's three. RealESRGAN_x4plus_anime_6B and RealESRNet_x4plus run if
  their weights are installed; otherwise, and for 4x-UltraSharp, which this server does not have, the server's own
  choice runs.
* The older API's `custom_storage` is refused, not ignored. `enterprise_plan` and the fields of NSFW detection have no
  effect: no detection runs, and the answers say so.
* Both take `extra.webhook`. It is sent for every end, with the body of task-result, and repeated five times after
  growing pauses. Test mode makes a task that has already ended: nothing is fetched or run, its picture is one black
  pixel in the requested format, and it can be polled like any other. `return_task_status` is SUCCEED or FAILED.
* Reasons of errors for which the vendor has no name are our own: NOT_FOUND, METHOD_NOT_ALLOWED, TOO_LARGE, INTERNAL, …

There are no uploads: the vendor's clients send them to a fixed host of the vendor.
"""

from server.api.dialects.novita import openapi
from server.api.dialects.novita.routes import router
from server.api.dialects.novita.translate import NAME, PREFIXES, to_error, to_webhook

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error", "to_webhook"]
