"""Our own API: jobs as they are, and the files that the links of every dialect lead to.

    POST   /jobs               a picture (JSON with `image`, or a form with `file`) and what to do with it → 202
    GET    /jobs               the caller's jobs through all dialects, newest first; ?state= ?limit= ?offset=
    GET    /jobs/{id}          one job
    GET    /jobs/{id}/events   server-sent events: `progress` after each change, `done` at the end
    GET    /jobs/{id}/result   the picture; 409 while there is none
    GET    /jobs/{id}/source   the source picture, unchanged; 409 until it has been fetched
    POST   /jobs/{id}/cancel   stop it
    DELETE /jobs/{id}          delete it with its pictures; one that has not ended is cancelled instead (202)
    POST   /plan               what POST /jobs would do; `width` and `height` may stand for the picture
    GET    /models             the networks that a job can name, best first; whether faces can be restored; limits
    GET    /files/{key}        a source or result; the name is the permission; ?name= saves it under that name
    GET    /files/{key}/preview  a small WebP of it; ?side=
    POST   /zip                several of these files as one ZIP archive; their names are the permission
    POST   /uploads            the bytes of a picture → a link to name it by in later requests
    PUT    /uploads/{key}      the bytes of an upload ticket; the name is the permission

Animations are upscaled whole, unless `animation` is `first`. Without scale, target and size the scale is 4. Unlike in
the vendors' dialects, an unknown field is an error, and a picture that is part of the request is checked before it is
accepted. Errors are `{"error": {"code", "message", "field"}}`.
"""

from server.api.dialects.native import openapi
from server.api.dialects.native.routes import router
from server.api.dialects.native.translate import NAME, PREFIXES, to_error

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error"]
