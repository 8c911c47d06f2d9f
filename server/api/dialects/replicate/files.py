"""Replicate's endpoints for files, which predictions take as their pictures."""

from math import inf, nextafter

from fastapi import APIRouter, Response
from starlette.datastructures import FormData, UploadFile

from server.api.dialects.depends import Call, CallDep, Form
from server.api.dialects.replicate.translate import NAME, PAGE, about_file, metadata_of, read_cursor, to_file, to_page
from server.api.responses import json_response
from server.db.uploads import Upload, clean_name
from server.errors import InvalidField, MissingField, NotFound

_MAX_METADATA_BYTES = 1 << 16
_LONGEST_TYPE = 255

router = APIRouter(prefix="/files")


@router.post("", status_code=201)
async def upload(call: CallDep, form: Form) -> Response:
    return await call.service.reading.run(call.caller.id, _upload, call, form)


def _upload(call: Call, form: FormData) -> Response:
    content, uploads = form.get("content"), call.service.uploads
    if not isinstance(content, UploadFile):
        raise MissingField("- content: is required: a file, as a part of a form", field="content")
    call.service.check_file_size(content.size or 0)
    data, kind = content.file.read(), (content.content_type or "application/octet-stream")[:_LONGEST_TYPE]
    about = about_file(data, kind, metadata_of(_metadata(form)))
    # Without a file ending the key is the id, and the file's address is one of those that lead to a picture.
    ticket = uploads.issue(call.caller.id, clean_name(content.filename or "file"), "", about)
    return json_response(to_file(uploads.fill(ticket.key, data), call.base_url), 201)


def _metadata(form: FormData) -> bytes:
    """A field of the form, or a file in it. Raises InvalidField."""
    given = form.get("metadata") or ""
    if (given.size or 0 if isinstance(given, UploadFile) else len(given)) > _MAX_METADATA_BYTES:
        raise InvalidField(f"- metadata: may have at most {_MAX_METADATA_BYTES} bytes", field="metadata")
    return given.file.read() if isinstance(given, UploadFile) else given.encode("utf-8", "surrogatepass")


@router.get("")
def files(call: CallDep, cursor: str | None = None) -> Response:
    before, offset = read_cursor(cursor)
    found, total = call.service.uploads.list(call.caller.id, NAME, created_before=before, limit=PAGE, offset=offset)
    newest = nextafter(found[0].created_at, inf) if found else 0.0
    results = [to_file(each, call.base_url) for each in found]
    return json_response(to_page(results, f"{call.base_url}/v1/files", before or newest, offset, total))


def _find(call: Call, file_id: str) -> Upload:
    found = call.service.uploads.find(call.caller.id, file_id) if len(file_id) == 32 else None
    if found is None or found.about.get("dialect") != NAME:
        raise NotFound("there is no file of this id")
    return found


@router.get("/{file_id}")
def file(call: CallDep, file_id: str) -> Response:
    return json_response(to_file(_find(call, file_id), call.base_url))


@router.delete("/{file_id}", status_code=204)
def delete(call: CallDep, file_id: str) -> Response:
    call.service.uploads.remove(_find(call, file_id).key)
    return Response(status_code=204)
