"""The OpenAPI 3.1 documents of all APIs: FastAPI's, made from the routes, completed with the bodies that endpoints
parse themselves.

A dialect's `openapi.py` describes its operations; a route without a description is an error.
"""

from functools import cache
from typing import Any

from fastapi.openapi.utils import get_openapi

from server import __version__
from server.api.dialects import DIALECTS
from server.api.dialects.base import Dialect
from server.api.openapi.base import write

_KEY = {"type": "http", "scheme": "bearer", "description": "Only on servers that have keys."}


@cache
def document(dialects: tuple[Dialect, ...] = DIALECTS) -> dict[str, Any]:
    """One document for one dialect or several."""
    paths: dict[str, Any] = {}
    components: dict[str, Any] = {"securitySchemes": {"key": _KEY}}
    for dialect in dialects:
        described = dialect.openapi
        made = get_openapi(title=described.TITLE, version=__version__, routes=dialect.router.routes)
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                operation["tags"] = [dialect.NAME]
                write(path, operation, described.OPERATIONS[f"{method.upper()} {path}"], described.ERROR)
        paths |= made["paths"]
        for name, schema in made.get("components", {}).get("schemas", {}).items():
            if name not in ("HTTPValidationError", "ValidationError"):  # FastAPI's own 422, which is never sent
                components.setdefault("schemas", {})[name] = schema
    title = dialects[0].openapi.TITLE if len(dialects) == 1 else "upscale-server"
    info = {"title": title, "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}
