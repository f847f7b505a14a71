"""Request bodies, read into memory only, within the limits on size and on memory."""

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request

from service.budget import Budget, mebibytes
from service.errors import UnsupportedUpload, UploadTooLarge
from service.vision.file_types import HEAD_BYTES, describe

ENVELOPE_BYTES = 64 * 1024
"""Bytes that a multipart or JSON body may have in addition to its photo."""

MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length that are read; parsing an absurdly long one would only take time."""


@dataclass(frozen=True)
class SizeLimit:
    """How many bytes something may have, and what its error calls it."""

    max_bytes: int
    what: str = "upload"
    setting: str = "TANDEM_MAX_UPLOAD_BYTES"

    def error(self, size: int | None = None) -> UploadTooLarge:
        """The error for ``size`` bytes, or for a body that was not read to its end."""
        limit = f"{mebibytes(self.max_bytes)} ({self.setting})"
        if size:
            return UploadTooLarge(f"the {self.what} is {mebibytes(size)}; the limit is {limit}")
        return UploadTooLarge(f"the {self.what} exceeds the limit of {limit}")


async def read_chunks(
    request: Request, memory: Budget, limit: SizeLimit, *, max_body_bytes: int | None = None
) -> AsyncIterator[bytes]:
    """Yield the body as it arrives and reserve memory for it.

    Args:
        request: The request whose body is read.
        memory: Reserves each chunk; the caller releases them.
        limit: The limit on what the body carries.
        max_body_bytes: The limit on the body itself, if the photo in it is wrapped in something.

    Raises:
        UnsupportedUpload: The body is compressed.
        UploadTooLarge: The body exceeds its limit. If Content-Length says so, nothing is read.
        Overloaded: There is no memory for it. If Content-Length says so, nothing is read.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedUpload(
            f"the body has content encoding {encoding[:50]!r}; send it without a content encoding"
        )
    max_body_bytes = max_body_bytes or limit.max_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        length = int(announced[:MAX_LENGTH_DIGITS])
        if length > max_body_bytes:
            raise limit.error(length)
        # Only checked: if it were reserved, a caller who announces much and sends nothing would block all others.
        memory.check(length)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_body_bytes:
            raise limit.error()
        memory.reserve(len(chunk))
        yield chunk


async def read_head(chunks: AsyncIterator[bytes]) -> bytes:
    """Read as many chunks as it takes to recognize what the body is."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= HEAD_BYTES:
            break
    return head


async def read_on(head: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what was read already, and then the further chunks."""
    yield head
    async for chunk in chunks:
        yield chunk


async def read_rest(head: bytes, chunks: AsyncIterator[bytes]) -> bytes:
    """Return the whole body."""
    body = io.BytesIO()  # unlike bytearray, it hands over its bytes without a copy
    async for chunk in read_on(head, chunks):
        body.write(chunk)
    return body.getvalue()


def unsupported(kind: bytes, head: bytes, what: str, accepted: str) -> UnsupportedUpload:
    """Return the error for a body that is not what a route takes.

    Args:
        kind: content type of the request; empty if it has none.
        head: first bytes of the body.
        what: what the body is not, such as "no batch".
        accepted: what to send instead.
    """
    given = f"the content type is {kind.decode('latin-1')!r}" if kind else "the body has no content type"
    looks = describe(head)
    seems = f": it looks like {looks}" if looks else ""
    return UnsupportedUpload(f"{given}, and the body is {what}{seems}; send {accepted}")
