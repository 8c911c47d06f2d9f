"""The OpenAPI 3.1 documents of our APIs: FastAPI's, made from the routes, with the bodies that those read by hand.

A dialect's file here describes its operations; a route that none describes stops the document.
"""

from functools import cache
from typing import Any

from fastapi.openapi.utils import get_openapi

from server import __version__
from server.api.dialects import DIALECTS
from server.api.dialects.base import Dialect
from server.api.dialects.native import openapi as native
from server.api.dialects.novita import openapi as novita
from server.api.dialects.runware import openapi as runware
from server.api.dialects.vibedream import openapi as vibedream
from server.api.dialects.wavespeed import openapi as wavespeed
from server.api.openapi.base import Described, write

SCHEMAS: dict[str, Described] = {
    "wavespeed": wavespeed,
    "vibedream": vibedream,
    "novita": novita,
    "runware": runware,
    "native": native,
}
"""By the dialect's NAME."""

_KEY = {"type": "http", "scheme": "bearer", "description": "Only on servers that have keys."}


@cache
def document(dialects: tuple[Dialect, ...] = DIALECTS) -> dict[str, Any]:
    """Of one dialect, or of several together."""
    paths: dict[str, Any] = {}
    components: dict[str, Any] = {"securitySchemes": {"key": _KEY}}
    for dialect in dialects:
        said = SCHEMAS[dialect.NAME]
        made = get_openapi(title=said.TITLE, version=__version__, routes=dialect.router.routes)
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                operation["tags"] = [dialect.NAME]
                write(path, operation, said.OPERATIONS[f"{method.upper()} {path}"], said.ERROR)
        paths |= made["paths"]
        for name, schema in made.get("components", {}).get("schemas", {}).items():
            if name not in ("HTTPValidationError", "ValidationError"):  # FastAPI's own 422, which nobody gets
                components.setdefault("schemas", {})[name] = schema
    title = SCHEMAS[dialects[0].NAME].TITLE if len(dialects) == 1 else "upscale-server"
    info = {"title": title, "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}
