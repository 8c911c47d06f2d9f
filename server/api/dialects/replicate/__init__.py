"""Replicate, under `/v1/`: predictions, models with their versions, files, webhooks, account.

    POST /v1/predictions                                `version` and `input` → 201, a prediction
    POST /v1/models/{owner}/{name}/predictions          the same with the newest version of a model
    GET  /v1/predictions, /v1/predictions/{id}          a page of them, newest first; one of them
    POST /v1/predictions/{id}/cancel
    GET  /v1/models…, /v1/models/{owner}/{name}/versions…, /v1/collections…
    POST, GET, DELETE /v1/files…                        pictures for predictions, as forms
    GET  /v1/account, /v1/webhooks/default/secret, /v1/hardware

Models: `nightmareai/real-esrgan`, `philz1337x/clarity-upscaler`, `tencentarc/gfpgan`, and `local/NAME` for each network
of this server. `POST /v1` itself is Runware's. Where the vendor's documents are silent:

* The vendor's published versions of the three models are known, so code that pins one runs; all versions of a model do
  the same. `version` may also be `owner/name` or `owner/name:version`. An unknown one is refused with 422.
* Ids are 32 hex digits. Unknown inputs are ignored, and short ones repeated in `input`; null counts as absent; known
  ones of a wrong type or range are refused with 422 and the input's name. `scale: 0` is in the vendor's range but is no
  size: refused.
* Any fault of the picture itself makes a prediction that fails, with the reason in `error`. A result without the
  weights that it needs (`face_enhance`, gfpgan) is refused with 422.
* `output` is always one link, of clarity-upscaler too. Files are PNG, or what `output_format` says.
* clarity-upscaler: `creativity` 0 is our 0, 0.35 (the default) our 1, 1 our 2, linear in between; the server's own
  choice of networks runs. `resemblance` is checked and has no effect. A `seed` of −1 is none.
* gfpgan: `version` is checked and has no effect: the restorer that is installed runs.
* In `input` a data URI of more than 512 characters is shown as its kind and length. Of unknown inputs it has the texts,
  numbers and booleans, at most 50.
* `logs` has a bar of the networks' progress, which moves with every tile, then the result's notes, networks and size.
* `Prefer: wait` waits for 60 s, or N of 1 … 60 s, and no longer than the operator's `sync_wait_s`; the answer comes
  half a second earlier than that, because the vendor's client gives up soon after it. A prediction that has not ended
  by then is "starting", also if it runs: that client takes every other status for the end.
* `Cancel-After` takes 1 s … 24 h (`30s`, `1m30s`, `90`). A cancel answers when the prediction has ended, or after 2 s
  with what it is then; one that has ended stays as it is. The status is then "canceled" and `error` is null.
* Webhooks follow Standard Webhooks. `output` and `completed` are one message, since a picture is there only at the end;
  it is sent again until it is accepted, seven times within half an hour. `start` and `logs` are sent while the
  prediction runs, at most every half second; they are not sent again, and may arrive late. Their `webhook-id` has a
  number after the prediction's id. `webhook_completed` of old clients is a webhook for `completed`.
* A prediction and its files are removed after the operator's `keep_s`: then it is not found. `data_removed` is true
  while only its result is gone.
* `run_count` counts the caller's stored predictions. `created_at` of all versions is the same. There is one collection.
* Not supported: streams, deployments, trainings, making models; their addresses answer 404.
"""

from server.api.dialects.replicate import openapi
from server.api.dialects.replicate.routes import router
from server.api.dialects.replicate.translate import NAME, PREFIXES, to_error, to_news, to_webhook

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error", "to_news", "to_webhook"]
