"""The photo in a request, in any of the forms in which one is accepted. It never touches the disk."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.body import SizeLimit, read_chunks
from service.api.uploads.json_photo import FIELD, photo_from_json
from service.api.uploads.multipart import FormParser
from service.budget import Budget
from service.errors import BrokenUpload, SlowUpload, UnsupportedUpload

ACCEPTED = (
    "image/jpeg, image/png, image/webp or image/heic as the raw body, "
    f"multipart/form-data with a file in field {FIELD!r}, "
    f'or application/json {{"{FIELD}": "<base64>"}}'
)

ENVELOPE_BYTES = 64 * 1024
"""Bytes that a multipart or JSON body may have in addition to its photo."""

MAX_PARTS = 20

SMALL_JSON_BYTES = 256 * 1024
"""A larger JSON body is decoded in a thread, since that takes more than a millisecond."""

JSON_THREAD = ThreadPoolExecutor(1, "json")
"""One thread for all of them: several would take the interpreter from the event loop in turns."""


async def read_photo(request: Request, memory: Budget, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a photo from the raw body, a multipart field or JSON with base64.

    Size limits apply to the Content-Length first and then while reading, so that no more is ever held.

    Raises:
        BrokenUpload: The body is empty, broken, or does not carry exactly one photo.
        UnsupportedUpload: The content type is none of the three forms.
        UploadTooLarge: The photo has more than ``max_bytes``.
        Overloaded: There is no memory for it.
        SlowUpload: The body took longer than ``timeout_s`` to arrive.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    limit = SizeLimit(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            if kind == b"multipart/form-data":
                return await _read_form(request, memory, limit, options.get(b"boundary"))
            if kind == b"application/json":
                return await _read_json(request, memory, limit)
            if kind.startswith(b"image/"):
                return await _read_body(request, memory, limit)
    except TimeoutError:
        raise SlowUpload(f"the upload did not arrive within {timeout_s:g} s (TANDEM_UPLOAD_TIMEOUT_S)") from None
    if not kind and request.headers.get("content-length", "0") == "0":
        raise BrokenUpload(f"the request has no body; send a photo as {ACCEPTED}")
    given = f"content type {kind.decode('latin-1')!r} is not supported" if kind else "the body has no content type"
    raise UnsupportedUpload(f"{given}; send a photo as {ACCEPTED}")


async def _read_body(
    request: Request, memory: Budget, limit: SizeLimit, *, max_body_bytes: int | None = None
) -> bytes:
    body = io.BytesIO()  # unlike bytearray, it hands over its bytes without a copy
    async for chunk in read_chunks(request, memory, limit, max_body_bytes=max_body_bytes):
        body.write(chunk)
    if not body.tell():
        raise BrokenUpload("the request's body is empty")
    return body.getvalue()


async def _read_form(request: Request, memory: Budget, limit: SizeLimit, boundary: bytes | None) -> bytes:
    form = FormParser(boundary, field=FIELD, max_parts=MAX_PARTS, max_file_bytes=limit.max_bytes)
    with closing(form):
        async for chunk in read_chunks(request, memory, limit, max_body_bytes=limit.max_bytes + ENVELOPE_BYTES):
            form.feed(chunk)
            if form.files and form.files[0].size > limit.max_bytes:
                raise limit.error()
    photo, *others = form.finish()
    if others:
        raise BrokenUpload(f"the form has {1 + len(others)} fields {FIELD!r}; send one photo per request")
    if not photo.size:
        raise BrokenUpload(f"the file in field {FIELD!r} is empty")
    return photo.content.getvalue()


async def _read_json(request: Request, memory: Budget, limit: SizeLimit) -> bytes:
    max_body_bytes = base64_length(limit.max_bytes) + ENVELOPE_BYTES
    body = await _read_body(request, memory, limit, max_body_bytes=max_body_bytes)
    with memory.reserved(len(body) * 3 // 4):  # for the photo; the body is held until then
        if len(body) <= SMALL_JSON_BYTES:
            photo = photo_from_json(body)
        else:
            photo = await asyncio.get_running_loop().run_in_executor(JSON_THREAD, photo_from_json, body)
    if len(photo) > limit.max_bytes:
        raise limit.error(len(photo))
    return photo


def base64_length(count: int) -> int:
    """How many characters of base64 encode ``count`` bytes."""
    return (count + 2) // 3 * 4
