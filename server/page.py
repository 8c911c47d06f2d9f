"""The web page: files as they are, no build step. It needs no key; what it asks of the API does."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

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


def index() -> Response:
    return _file(FOLDER / "index.html")


@router.get("/web/{name}")
def part(name: str) -> Response:
    """What index.html refers to. Raises NotFound."""
    path = FOLDER / name
    if path not in FOLDER.iterdir():
        raise NotFound("there is nothing at this address")
    return _file(path)


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=_MIME[path.suffix], headers=_HEADERS)
