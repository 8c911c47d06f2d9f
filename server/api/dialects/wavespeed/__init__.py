"""WaveSpeedAI, under `/api/v3` and the `/api/v2` of old SDKs: predictions, uploads, webhooks, catalogue, account.

Models: `wavespeed-ai/image-upscaler` and `wavespeed-ai/real-esrgan`. Where the vendor's documents are silent:

* Unknown fields are ignored, and null counts as absent; known fields of a wrong type or range are refused with 400.
* Any fault of the picture itself (unreachable, not a picture, its result too large) makes a prediction that fails:
  `data.code` 1402 for the source, 1401 for an impossible result.
* real-esrgan answers PNG. Its `scale: 0` is inside the documented range but is no size, so it is refused with 400.
* A queued prediction is `created`, a cancelled one `failed` with the error "the prediction was cancelled": the vendor
  has no other status for it. Lists can be filtered by `cancelled`, `timeout` and `deleted`, which match nothing.
* Every HTTP error has all fields that the vendor's clients read: `code`, `message`, `error`. Another caller's
  prediction is not found, rather than forbidden.
* A webhook is sent again 2, 10 and 50 s after it failed. `webhook-id` is the prediction's id, the same each time.
* A deleted prediction is stopped if it runs, sends no webhook, and is not found from then on.
* Lists leave `input` out unless `include_inputs`, and have links even where the prediction itself answers in base64.
* There is no account: the balance is always 100. Prices are the operator's; one that depends on the result's size is
  exact if `inputs` has the picture, and otherwise the price per job alone.
"""

from server.api.dialects.wavespeed import openapi
from server.api.dialects.wavespeed.routes import router
from server.api.dialects.wavespeed.translate import NAME, PREFIXES, to_error, to_webhook

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error", "to_webhook"]
