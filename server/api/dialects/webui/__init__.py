"""The extras of the Stable Diffusion web UI, under `/sdapi/v1`: what editors' plug-ins and chat front ends call.

    POST /sdapi/v1/extra-single-image    one picture in base64 → waits → the result in base64
    POST /sdapi/v1/extra-batch-images    several, in `imageList`; the results in the same order
    GET  /sdapi/v1/upscalers, face-restorers, progress, options, cmd-flags, scripts, sd-models, samplers
    POST /sdapi/v1/interrupt, png-info

A key is sent as the password of HTTP Basic, with any user name, or as `Bearer KEY`. Where no source says more:

* Upscalers are `None`, `Lanczos`, `Nearest`, this server's networks by their own names, and the official ones also by
  the names that the original has for them (`R-ESRGAN 4x+`). With `None` the picture keeps its size, as in the original.
* `resize_mode` 0 gives exactly round(w·f) × round(h·f); the original rounds down to multiples of 8. `resize_mode` 1
  with `upscaling_crop` covers the size and cuts its centre out; without it the result fits inside and is not cut.
* `extras_upscaler_2_visibility` is the share of the second upscaler's result.
* `gfpgan_visibility` is the strength of the installed restorer. Faces are always restored after enlarging, whatever
  `upscale_first` says. CodeFormer is refused in words. `show_extras_results` has no effect.
* Any fault of a picture is a 422 that names the field, in a batch with the picture's index in `imageList`. Of a batch
  with a fault nothing runs.
* Requests wait for as long as it takes. A request that its caller gives up cancels its jobs, and so does `interrupt`,
  after which the request is answered 409. When the server restarts they are cancelled too and the answer is 503.
* `progress` is that of the caller's running request, over all its pictures; steps are percent.
* `image` may also be an http(s) URL. Results are PNG, with the source's texts; `png-info` reads those of a PNG.
* Generation calls (`txt2img`, …) are answered 404 with words: this server upscales.
"""

from server.api.dialects.webui import openapi
from server.api.dialects.webui.routes import router
from server.api.dialects.webui.translate import CHALLENGE, NAME, PREFIXES, to_error

__all__ = ["CHALLENGE", "NAME", "PREFIXES", "openapi", "router", "to_error"]
