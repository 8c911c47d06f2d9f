"""The addresses of the OpenAPI documents."""

from fastapi import APIRouter, Response

from server.api.dialects import DIALECTS
from server.api.openapi.document import document
from server.api.responses import json_response
from server.errors import NotFound

router = APIRouter()


@router.get("/openapi.json")
def openapi() -> Response:
    """All APIs in one document."""
    return json_response(document())


@router.get("/openapi/{name}.json")
def openapi_of(name: str) -> Response:
    found = tuple(each for each in DIALECTS if name == each.NAME)
    if not found:
        raise NotFound(f"there is no API of that name; there are {', '.join(each.NAME for each in DIALECTS)}")
    return json_response(document(found))
