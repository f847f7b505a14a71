"""The photo in a request, in any of the forms in which one is accepted. It never touches the disk."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.body import (
    ENVELOPE_BYTES,
    SizeLimit,
    read_chunks,
    read_head,
    read_on,
    read_rest,
    unsupported,
)
from service.api.uploads.by_url import PhotoFetcher
from service.api.uploads.json_photo import FIELD, photo_from_json, url_from_json
from service.api.uploads.multipart import FormParser
from service.budget import Budget
from service.errors import BrokenUpload, SlowUpload
from service.vision.file_types import PHOTO_FORMATS, form_boundary, is_photo

ACCEPTED = (
    f"the bytes of a file in {PHOTO_FORMATS} as the raw body (Content-Type: image/jpeg, for example), "
    f"multipart/form-data with a file in field {FIELD!r}, "
    f'or application/json {{"{FIELD}": "<base64>"}}'
)

FORM_TYPE = b"multipart/form-data"

MAX_PARTS = 20

SMALL_TEXT_BYTES = 256 * 1024
"""A larger text is decoded in a thread, since that takes more than a millisecond."""

TEXT_THREAD = ThreadPoolExecutor(1, "base64")
"""One thread for all of them: several would take the interpreter from the event loop in turns."""


async def read_photo(
    request: Request, memory: Budget, *, max_bytes: int, timeout_s: float, fetcher: PhotoFetcher | None = None
) -> bytes:
    """Read a photo from the raw body, a multipart field or JSON with base64, or from the URL in JSON.

    Content-Type is a hint: a body that starts like a photo is one, whatever its type is said to be.

    Size limits apply to the Content-Length first and then while reading, so that no more is ever held.

    Raises:
        BrokenUpload: The body is empty, broken, or does not carry exactly one photo.
        UnsupportedUpload: It is none of the three forms.
        UploadTooLarge: The photo has more than ``max_bytes``.
        Overloaded: There is no memory for it.
        UrlRefused, FetchFailed: The photo cannot be fetched by its URL.
        SlowUpload: The body took longer than ``timeout_s`` to arrive.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, memory, SizeLimit(max_bytes), fetcher)
    except TimeoutError:
        raise SlowUpload(f"the upload did not arrive within {timeout_s:g} s (TANDEM_UPLOAD_TIMEOUT_S)") from None


async def _read(request: Request, memory: Budget, limit: SizeLimit, fetcher: PhotoFetcher | None) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    is_json = kind.endswith(b"json")
    max_body_bytes = limit.max_bytes
    if kind == FORM_TYPE:
        max_body_bytes += ENVELOPE_BYTES
    elif is_json:
        max_body_bytes = base64_length(limit.max_bytes) + ENVELOPE_BYTES
    chunks = read_chunks(request, memory, limit, max_body_bytes=max_body_bytes)
    head = await read_head(chunks)
    if kind == FORM_TYPE and not is_photo(head):
        return await _read_form(head, chunks, memory, limit, options.get(b"boundary") or form_boundary(head))
    if not head:
        raise BrokenUpload("the request's body is empty" if kind else f"the request has no body; send {ACCEPTED}")
    if not is_json and not is_photo(head) and not kind.startswith(b"image/"):
        raise unsupported(kind, head, "not a photo", ACCEPTED)
    body = await read_rest(head, chunks)
    if is_json and not is_photo(head):
        url = url_from_json(body)
        if url is not None:
            if fetcher is None:
                raise BrokenUpload(
                    "a photo's URL is not fetched here (TANDEM_FETCH_HOSTS); send the photo itself, in base64 as "
                    f"{FIELD!r}"
                )
            return await fetcher.fetch(url, memory, limit)
        return await _decode(body, lambda: photo_from_json(body), memory, limit)
    if len(body) > limit.max_bytes:
        raise limit.error(len(body))
    return body


async def _read_form(
    head: bytes, chunks: AsyncIterator[bytes], memory: Budget, limit: SizeLimit, boundary: bytes | None
) -> bytes:
    form = FormParser(boundary, field=FIELD, max_parts=MAX_PARTS, max_file_bytes=limit.max_bytes)
    with closing(form):
        async for chunk in read_on(head, chunks):
            form.feed(chunk)
            if form.files and form.files[0].size > limit.max_bytes:
                raise limit.error()
    photo, *others = form.finish()
    if others:
        count = 1 + len(others)
        raise BrokenUpload(
            f"the form has {count} fields {FIELD!r}; send one photo per request, or all to /v1/emotions/batch"
        )
    if not photo.size:
        raise BrokenUpload(f"the file in field {photo.field_name!r} is empty")
    if photo.is_text:
        return await _decode(photo.content.getvalue(), photo.read, memory, limit)
    return photo.read()


async def _decode(text: bytes, decode: Callable[[], bytes], memory: Budget, limit: SizeLimit) -> bytes:
    with memory.reserved(len(text) * 3 // 4):  # for the photo; the text is held until then
        if len(text) <= SMALL_TEXT_BYTES:
            photo = decode()
        else:
            photo = await asyncio.get_running_loop().run_in_executor(TEXT_THREAD, decode)
    if len(photo) > limit.max_bytes:
        raise limit.error(len(photo))
    return photo


def base64_length(count: int) -> int:
    """How many characters of base64 encode ``count`` bytes."""
    return (count + 2) // 3 * 4
