"""Runware: arrays of tasks, by `POST /v1` or over a WebSocket on `/v1` or `/`.

    translate.py   tasks → Params, jobs and errors → items of answers
    tasks.py       what each task does
    routes.py      REST                sockets.py   WebSocket                sessions.py   sessions that outlive sockets

Tasks: `imageUpscale` (also called `upscale`; answered as `imageUpscale`), `imageUpload`, `mediaStorage` (upload),
`getResponse`, and for keys and sockets `authentication` and `ping`. Where the vendor's documents are silent:

* Unknown fields are ignored, and null counts as absent; known fields of a wrong type or range are refused. Any UUID is
  valid as `taskUUID`, of any version. `settings`, `safety`, `providerSettings` and `routing` may be absent and have no
  effect, apart from one seed (below).
* `model` decides which factors are valid, and which one is used when `upscaleFactor` is absent: `runware:500@1` any
  from 1 to 4 (4 if absent), `501@1` and `502@1` only 2 (2), all others and none 2, 3 or 4 (4). `500@1`, the vendor's
  creative model, runs with creativity 1, and with the seed of its `settings` if there is one; all others run the
  server's own choice, without creativity. A task `imageUpscale` without a model, as older clients send it, needs its
  factor, and so does one with `targetMegapixels`, which is not supported.
* `numberResults` is the number of results in one task's answer. All are the same picture, since nothing here is random,
  and differ in `resultIndex`; only the first has the cost. A webhook is sent once.
* Wrong parameters are `invalid<Parameter>`, absent ones `missing<Parameter>`. A picture that could not be downloaded is
  `downloadFailed`, a bad one or one at a refused address `invalidInputImage`, a result that no file can hold
  `invalidUpscaleFactor`; failures during the work are `taskFailed`, `processingFailed` (out of memory) or
  `taskCancelled`. The vendor's newest client knows all of these codes.
* A `taskUUID` is taken, `conflictTaskUUID`, for as long as its job is stored, however the job ended.
* Therefore a task that was accepted and then failed is answered with status 400 for any reason: clients repeat a
  request after a 5xx, and the repeat could only be a conflict. 5xx and 429 are for tasks that were not accepted.
* A synchronous task that takes longer than `sync_wait_s` is answered `providerTimeout`, and continues: `getResponse`
  reports its end. The vendor's clients wait for 60 s (JS, which then sends the task again) and 120 s (Python).
* Several tasks are answered one by one; the status is 200 if any succeeded, otherwise the highest of theirs.
* `imageUUID` is known from the start: `getResponse` reports it while the task still runs.
* A webhook has links only, so `webhookURL` is refused with an `outputType` other than URL. After a failure it is the
  error itself, not in a list. It is repeated eight times, over half a minute.
* `ttl` can shorten how long a result is stored, not lengthen it.
* Uploads keep every pixel and are stored for as long as the operator's `keep_s` says.
* A socket has to authenticate first, also on a server without keys; after a wrong key it may send another. It is closed
  after 120 s without a frame from the caller and without a running task.
"""

from server.api.dialects.runware import openapi
from server.api.dialects.runware.routes import router
from server.api.dialects.runware.translate import NAME, PREFIXES, to_error, to_webhook

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error", "to_webhook"]
