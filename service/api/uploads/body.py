"""The bytes of one photo out of a request, held in memory only: nothing of a photo is ever written to disk."""

import asyncio
import base64
import binascii
import codecs
import io
import json
from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.multipart import FormReader
from service.budget import Budget
from service.errors import BrokenUpload, SlowUpload, UnsupportedUpload, UploadTooLarge
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

MAX_VALUES = 1000
"""What a JSON body may hold: empty lists and objects would take twenty times their own length in memory."""

MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length that are read; more would only take time."""


async def read_photo(request: Request, memory: Budget, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a photo's bytes: a multipart field ``image``, the raw body, or JSON with base64.

    The limit is applied to the announced length first and then while reading, so that no more than it is ever
    held.

    Raises:
        BrokenUpload: the body is empty, broken, or carries no photo or more than one.
        UnsupportedUpload: the content type is none of the three forms.
        UploadTooLarge: the photo has more than ``max_bytes``.
        Overloaded: with it more bytes would be held than may be.
        SlowUpload: the body took longer than ``timeout_s`` to arrive.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    try:
        async with asyncio.timeout(timeout_s):
            if kind == b"multipart/form-data":
                return await _from_multipart(request, memory, options.get(b"boundary"), max_bytes)
            if kind == b"application/json":
                body = await _read(
                    request, memory, max_bytes, body_limit=base64_length(max_bytes) + ENVELOPE_BYTES
                )
                # Megabytes of base64 take long enough to hold up every other request, and lie there twice more.
                with memory.reserved(2 * len(body)):
                    photo = await asyncio.to_thread(photo_from_json, body)
                if len(photo) > max_bytes:
                    raise too_large(len(photo), max_bytes)
                return photo
            if kind.startswith(b"image/"):
                return await _read(request, memory, max_bytes, max_bytes)
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
    memory: Budget,
    max_bytes: int,
    body_limit: int,
    *,
    what: str = "upload",
    setting: str = "TANDEM_MAX_UPLOAD_BYTES",
) -> AsyncIterator[bytes]:
    """The body in pieces, as long as it keeps to ``body_limit``; ``memory`` counts them.

    Raises:
        UnsupportedUpload: the body is compressed.
        UploadTooLarge: it has more; the error names ``max_bytes``, what the photo in the body may have.
        Overloaded: with it more bytes would be held than may be; where its length is announced, none is read.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedUpload(f"a body in content encoding «{encoding[:50]}» is not read here; send it as it is")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        # Only what has come is counted, else whoever announces much and sends nothing could shut the others out.
        length = int(announced[:MAX_LENGTH_DIGITS])
        if length > body_limit:
            raise too_large(length, max_bytes, what=what, setting=setting)
        memory.check(length)
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > body_limit:
            raise too_large(None, max_bytes, what=what, setting=setting)
        memory.reserve(len(chunk))
        yield chunk


async def _read(request: Request, memory: Budget, max_bytes: int, body_limit: int) -> bytes:
    body = io.BytesIO()  # unlike a bytearray it hands its bytes over without a copy
    async for chunk in read_chunks(request, memory, max_bytes, body_limit):
        body.write(chunk)
    if not body.tell():
        raise BrokenUpload("the request's body is empty")
    return body.getvalue()


def photo_from_json(body: bytes) -> bytes:
    """The photo in ``{"image": "<base64>"}``; a ``data:`` URL's prefix is allowed.

    Raises:
        BrokenUpload: the body is not JSON, no object, or has no base64 text under ``image``.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise BrokenUpload(f"the JSON body has more than {MAX_VALUES:,} values; one photo is all that is read")
    try:
        # Latin-1 keeps it at a byte a character, whatever stands beside the photo; base64 is ASCII in both.
        content = json.loads(body.removeprefix(codecs.BOM_UTF8).decode("latin-1"))
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


async def _from_multipart(request: Request, memory: Budget, boundary: bytes | None, max_bytes: int) -> bytes:
    form = _PhotoForm(boundary, max_bytes)
    async for chunk in read_chunks(request, memory, max_bytes, max_bytes + ENVELOPE_BYTES):
        form.feed(chunk)
    return form.photo()


class _PhotoForm(FormReader):
    """Collects the one part of a multipart body that is the photo, and drops the others."""

    def __init__(self, boundary: bytes | None, max_bytes: int) -> None:
        super().__init__(boundary, max_parts=MAX_PARTS)
        self._max_bytes = max_bytes
        self._names: list[str] = []
        self._photo = io.BytesIO()

    def begin(self, name: str, filename: str) -> None:
        self._names.append(name)

    def take(self, content: bytes) -> None:
        if self._names[-1] != FIELD or self._names.count(FIELD) > 1:
            return
        self._photo.write(content)
        if self._photo.tell() > self._max_bytes:
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
        if not self._photo.tell():
            raise BrokenUpload(f"the file in field «{FIELD}» is empty")
        return self._photo.getvalue()
