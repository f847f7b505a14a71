"""The bytes of one photo out of a request, held in memory only: nothing of a photo is ever written to disk."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.errors import BrokenUpload, SlowUpload, UnsupportedUpload, UploadTooLarge
from service.forms import FormReader
from service.settings import MEBIBYTE

FIELD = "image"
"""Name of the multipart field and of the JSON key."""

READ_FORMS = (
    "image/jpeg, image/png, image/webp and image/heic as raw body, "
    f"multipart/form-data with a file in field «{FIELD}», "
    f'application/json {{"{FIELD}": "<base64>"}}'
)

ENVELOPE_BYTES = 64 * 1024
"""What a multipart or JSON body may have around its photo."""

MAX_PARTS = 20


async def read_photo(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a photo's bytes: a multipart field ``image``, the raw body, or JSON with base64.

    The limit is applied to the announced length first and then while reading, so that no more than it is ever
    held.

    Raises:
        BrokenUpload: the body is empty, broken, or carries no photo or more than one.
        UnsupportedUpload: the content type is none of the three forms.
        UploadTooLarge: the photo has more than ``max_bytes``.
        SlowUpload: the body took longer than ``timeout_s`` to arrive.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    try:
        async with asyncio.timeout(timeout_s):
            if kind == b"multipart/form-data":
                return await _from_multipart(request, options.get(b"boundary"), max_bytes)
            if kind == b"application/json":
                body = await _read(request, max_bytes, body_limit=base64_length(max_bytes) + ENVELOPE_BYTES)
                # Megabytes of base64 take long enough to hold up every other request.
                photo = await asyncio.to_thread(photo_from_json, bytes(body))
                if len(photo) > max_bytes:
                    raise too_large(len(photo), max_bytes)
                return photo
            if kind.startswith(b"image/"):
                return bytes(await _read(request, max_bytes, body_limit=max_bytes))
    except TimeoutError:
        raise SlowUpload(f"the upload did not arrive within {timeout_s:g} s (TANDEM_UPLOAD_TIMEOUT_S)") from None
    if not kind and request.headers.get("content-length", "0") == "0":
        raise BrokenUpload(f"the request has no body; a photo is taken as {READ_FORMS}")
    given = f"content type «{kind.decode('latin-1')}»" if kind else "a body without a content type"
    raise UnsupportedUpload(f"{given} is not read here; a photo is taken as {READ_FORMS}")


def base64_length(count: int) -> int:
    """How many characters of base64 carry ``count`` bytes."""
    return (count + 2) // 3 * 4


def too_large(
    size: int | None, max_bytes: int, *, what: str = "upload", setting: str = "TANDEM_MAX_UPLOAD_BYTES"
) -> UploadTooLarge:
    """The error for an upload of ``size`` bytes, or of an unknown number of them."""
    given = f"the {what} has {size / MEBIBYTE:,.1f} MiB" if size else f"the {what} is larger than allowed"
    return UploadTooLarge(f"{given}; the limit is {max_bytes / MEBIBYTE:,.1f} MiB ({setting})")


async def read_chunks(
    request: Request,
    max_bytes: int,
    body_limit: int,
    *,
    what: str = "upload",
    setting: str = "TANDEM_MAX_UPLOAD_BYTES",
) -> AsyncIterator[bytes]:
    """The body in pieces, as long as it keeps to ``body_limit``.

    Raises:
        UploadTooLarge: it does not; the error names ``max_bytes``, what the photo in the body may have.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > body_limit:
        raise too_large(int(announced), max_bytes, what=what, setting=setting)
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > body_limit:
            raise too_large(None, max_bytes, what=what, setting=setting)
        yield chunk


async def _read(request: Request, max_bytes: int, body_limit: int) -> bytearray:
    body = bytearray()
    async for chunk in read_chunks(request, max_bytes, body_limit):
        body += chunk
    if not body:
        raise BrokenUpload("the request's body is empty")
    return body


def photo_from_json(body: bytes) -> bytes:
    """The photo in ``{"image": "<base64>"}``; a ``data:`` URL's prefix is allowed.

    Raises:
        BrokenUpload: the body is not JSON, no object, or has no base64 text under ``image``.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BrokenUpload(f"the body is not JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise BrokenUpload(f'the JSON body must be an object {{"{FIELD}": "<base64>"}}')
    if FIELD not in content:
        raise BrokenUpload(f"the JSON object has no «{FIELD}»")
    text = content[FIELD]
    if not isinstance(text, str):
        raise BrokenUpload(f"«{FIELD}» must be base64 text, not {type(text).__name__}")
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BrokenUpload(f"the data: URL in «{FIELD}» is not base64")
    try:
        photo = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenUpload(f"«{FIELD}» is not base64: {error}") from None
    if not photo:
        raise BrokenUpload(f"«{FIELD}» is empty")
    return photo


async def _from_multipart(request: Request, boundary: bytes | None, max_bytes: int) -> bytes:
    form = _PhotoForm(boundary, max_bytes)
    async for chunk in read_chunks(request, max_bytes, max_bytes + ENVELOPE_BYTES):
        form.feed(chunk)
    return form.photo()


class _PhotoForm(FormReader):
    """Collects the one part of a multipart body that is the photo, and drops the others."""

    def __init__(self, boundary: bytes | None, max_bytes: int) -> None:
        super().__init__(boundary, max_parts=MAX_PARTS)
        self._max_bytes = max_bytes
        self._names: list[str] = []
        self._photo = bytearray()

    def begin(self, name: str, filename: str) -> None:
        self._names.append(name)

    def take(self, content: bytes) -> None:
        if self._names[-1] != FIELD or self._names.count(FIELD) > 1:
            return
        self._photo += content
        if len(self._photo) > self._max_bytes:
            raise too_large(None, self._max_bytes)

    def photo(self) -> bytes:
        count = self._names.count(FIELD)
        if not self.complete:
            raise BrokenUpload("the multipart body is empty or cut off")
        if count == 0:
            others = f"; it has {', '.join(f'«{name[:50]}»' for name in self._names)}" if self._names else ""
            raise BrokenUpload(f"the form has no field «{FIELD}»{others}")
        if count > 1:
            raise BrokenUpload(f"the form has {count} fields «{FIELD}»; one photo is taken at a time")
        if not self._photo:
            raise BrokenUpload(f"the file in field «{FIELD}» is empty")
        return bytes(self._photo)
