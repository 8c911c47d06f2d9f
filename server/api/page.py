"""The web page: files as they are, no build step. It needs no key; what it asks of the API does."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from server.api.responses import conditional
from server.errors import NotFound

FOLDER = Path(__file__).parent / "web"

_MIME = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""NOTE: not left to the system's own table, which may call scripts text/plain: browsers would not run them."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # an upgraded server has a new page
}

router = APIRouter()


def index(request: Request) -> Response:
    return _file(FOLDER / "index.html", request)


@router.get("/web/{name}")
def part(name: str, request: Request) -> Response:
    """What index.html refers to. Raises NotFound."""
    path = FOLDER / name
    if path not in FOLDER.iterdir():
        raise NotFound("there is nothing at this address")
    return _file(path, request)


def _file(path: Path, request: Request) -> Response:
    status = path.stat()
    response = FileResponse(path, media_type=_MIME[path.suffix], headers=_HEADERS, stat_result=status)
    return conditional(response, request, status.st_size)
