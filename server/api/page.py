"""The web page: static files, no build step. The page needs no key; its requests to the API do."""

from pathlib import Path

from fastapi import APIRouter, Request, Response

from server import __version__
from server.api.dialects import DIALECTS
from server.api.responses import file_response, json_response
from server.blobs.folder import FileReader
from server.errors import NotFound

FOLDER = Path(__file__).parent / "web"

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


def _file(path: Path, request: Request) -> Response:
    return file_response(FileReader(path), request, _MIME[path.suffix], _HEADERS)
