"""The photo in a request, in any of the forms in which one is accepted. It never touches the disk."""

import asyncio
import base64
import binascii
import codecs
import io
import json

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.body import SizeLimit, read_chunks
from service.api.uploads.multipart import FormParser
from service.budget import Budget
from service.errors import BrokenUpload, SlowUpload, UnsupportedUpload

FIELD = "image"
"""Name of the multipart field and of the JSON key."""

ACCEPTED = (
    "image/jpeg, image/png, image/webp or image/heic as the raw body, "
    f"multipart/form-data with a file in field {FIELD!r}, "
    f'or application/json {{"{FIELD}": "<base64>"}}'
)

ENVELOPE_BYTES = 64 * 1024
"""Bytes that a multipart or JSON body may have in addition to its photo."""

MAX_PARTS = 20

MAX_JSON_VALUES = 1000
"""Values in a JSON body; empty lists and objects take twenty times their length in memory."""


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
    # In a thread, since megabytes of base64 would block the event loop. They are copied twice on the way.
    with memory.reserved(2 * len(body)):
        photo = await asyncio.to_thread(photo_from_json, body)
    if len(photo) > limit.max_bytes:
        raise limit.error(len(photo))
    return photo


def base64_length(count: int) -> int:
    """How many characters of base64 encode ``count`` bytes."""
    return (count + 2) // 3 * 4


def photo_from_json(body: bytes) -> bytes:
    """Decode the photo in ``{"image": "<base64>"}``; the prefix of a ``data:`` URL is allowed.

    Raises:
        BrokenUpload: The body is not a JSON object with base64 text under ``image``.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise BrokenUpload(f"the JSON body has too many values; the limit is {MAX_JSON_VALUES:,}")
    try:
        # Latin-1 takes one byte per character whatever else is in the body. Base64 is ASCII in both encodings.
        content = json.loads(body.removeprefix(codecs.BOM_UTF8).decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise BrokenUpload(f"the body is not JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise BrokenUpload(f'the JSON body must be an object {{"{FIELD}": "<base64>"}}')
    if FIELD not in content:
        raise BrokenUpload(f"the JSON object has no key {FIELD!r}")
    text = content[FIELD]
    if not isinstance(text, str):
        raise BrokenUpload(f"the value of {FIELD!r} must be base64 text, not {type(text).__name__}")
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BrokenUpload(f"the data: URL in {FIELD!r} is not base64")
    try:
        photo = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenUpload(f"the value of {FIELD!r} is not base64: {error}") from None
    if not photo:
        raise BrokenUpload(f"the value of {FIELD!r} is empty")
    return photo
