"""The web pages: static files, no build step. They need no key; their requests to the API do.

`/` is for pictures; `/docs` shows the OpenAPI documents with Swagger UI, whose files are in a package of their own.
"""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response

from server import __version__
from server.api.dialects import DIALECTS
from server.api.responses import file_response, json_response
from server.blobs.folder import FileReader
from server.errors import NotFound

FOLDER = Path(__file__).parent / "web"


def _swagger_ui() -> dict[str, Path]:
    """The files of the package fastapi-swagger, by name; its code is never run."""
    found = find_spec("fastapi_swagger")
    assert found is not None and found.origin is not None, "fastapi-swagger is a dependency"
    names = ("swagger-ui-bundle.js", "swagger-ui.css")
    return {name: Path(found.origin).parent / "resources" / name for name in names}


SWAGGER_UI = _swagger_ui()

_MIME = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""NOTE: the system's own table may list scripts as text/plain, and browsers would not run them."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",  # with no-referrer, a form of the page would have no origin either
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # an upgraded server has a new page
}

router = APIRouter()


@router.get("/")
def root(request: Request) -> Response:
    """The page for browsers; name and APIs of the server for programs."""
    if "text/html" in request.headers.get("accept", ""):
        return _file(FOLDER / "index.html", request)
    return json_response({"name": "upscale-server", "version": __version__, "apis": [each.NAME for each in DIALECTS]})


@router.get("/web/{name}")
def part(name: str, request: Request) -> Response:
    """A file that index.html refers to. Raises NotFound."""
    path = FOLDER / name
    if path not in FOLDER.iterdir():
        raise NotFound("there is nothing at this address")
    return _file(path, request)


@router.get("/docs")
def docs(request: Request) -> Response:
    """All OpenAPI documents, to read and to try."""
    return _file(FOLDER / "docs.html", request)


@router.get("/docs/{name}")
def swagger_ui(name: str, request: Request) -> Response:
    """A file that docs.html refers to. Raises NotFound."""
    if name not in SWAGGER_UI:
        raise NotFound("there is nothing at this address")
    return _file(SWAGGER_UI[name], request)


def _file(path: Path, request: Request) -> Response:
    return file_response(FileReader(path), request, _MIME[path.suffix], _HEADERS)
