"""The photos of a batch: the files of a form, or of a ZIP archive."""

import asyncio
import io
from collections.abc import Sequence
from contextlib import closing
from typing import Protocol

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.body import SizeLimit, read_chunks
from service.api.uploads.multipart import FormFile, FormParser
from service.api.uploads.photo import MAX_PARTS
from service.api.uploads.zip_archive import ZipArchive
from service.budget import Budget
from service.errors import BrokenUpload, SlowUpload, TooManyPhotos, UnsupportedUpload
from service.settings import Settings

FIELD = "images"
"""Name of the multipart field; it is repeated for each photo."""

ZIP_TYPES = (b"application/zip", b"application/x-zip-compressed")

ENVELOPE_BYTES = 1024
"""Bytes that a multipart body may have around each photo."""


class Photos(Protocol):
    """The photos of a batch."""

    @property
    def names(self) -> Sequence[str]:
        """The file name of each photo."""

    def unpacked_bytes(self, index: int) -> int:
        """How many bytes ``read`` holds in addition to the upload."""

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """Return one photo. Blocks for some milliseconds.

        Raises:
            TandemError: This photo cannot be read; the others can.
        """


async def read_batch(request: Request, memory: Budget, settings: Settings) -> Photos:
    """Read a multipart form (field ``images``, repeated) or a ZIP archive into memory.

    Raises:
        BrokenUpload: The body is empty or broken, or has no photo.
        UnsupportedUpload: The content type is neither form.
        UploadTooLarge, TooManyPhotos: The batch as a whole exceeds a limit.
        Overloaded: There is no memory for it.
        SlowUpload: The body took too long to arrive.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    timeout_s = settings.batch_upload_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            if kind == b"multipart/form-data":
                return await _read_form(request, memory, settings, options.get(b"boundary"))
            if kind in ZIP_TYPES:
                return await _read_zip(request, memory, settings)
    except TimeoutError:
        raise SlowUpload(
            f"the batch did not arrive within {timeout_s:g} s (TANDEM_BATCH_UPLOAD_TIMEOUT_S)"
        ) from None
    given = f"content type {kind.decode('latin-1')!r} is not supported" if kind else "the body has no content type"
    raise UnsupportedUpload(
        f"{given}; send a batch as multipart/form-data with files in field {FIELD!r}, or as application/zip"
    )


def _size_limit(settings: Settings) -> SizeLimit:
    return SizeLimit(settings.max_batch_bytes, "batch", "TANDEM_MAX_BATCH_BYTES")


async def _read_form(request: Request, memory: Budget, settings: Settings, boundary: bytes | None) -> Photos:
    max_photos, limit = settings.max_batch_photos, _size_limit(settings)
    max_parts = max_photos + MAX_PARTS
    form = FormParser(boundary, field=FIELD, max_parts=max_parts, max_file_bytes=settings.max_upload_bytes)
    max_body_bytes = limit.max_bytes + max_parts * ENVELOPE_BYTES
    with closing(form):
        async for chunk in read_chunks(request, memory, limit, max_body_bytes=max_body_bytes):
            form.feed(chunk)
            if len(form.files) > max_photos:
                raise TooManyPhotos(f"the batch has more than {max_photos} photos (TANDEM_MAX_BATCH_PHOTOS)")
    return FormPhotos(form.finish())


async def _read_zip(request: Request, memory: Budget, settings: Settings) -> Photos:
    body = io.BytesIO()
    async for chunk in read_chunks(request, memory, _size_limit(settings)):
        body.write(chunk)
    return await asyncio.to_thread(_open_zip, body.getvalue(), settings)


def _open_zip(data: bytes, settings: Settings) -> ZipArchive:
    archive = ZipArchive(data, max_photos=settings.max_batch_photos, max_bytes=settings.max_batch_bytes)
    if not archive.names:
        raise BrokenUpload("the ZIP archive has no files")
    return archive


class FormPhotos:
    """The files of a form as the photos of a batch."""

    def __init__(self, files: list[FormFile]) -> None:
        self._files = files

    @property
    def names(self) -> list[str]:
        """The file name of each photo; may be empty."""
        return [file.name for file in self._files]

    def unpacked_bytes(self, index: int) -> int:
        """Return 0: the bytes of the upload are handed over."""
        return 0

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """Return one photo and forget it.

        Raises:
            UploadTooLarge: It has more than ``max_bytes``.
        """
        file = self._files[index]
        if file.size > max_bytes:
            raise SizeLimit(max_bytes).error(file.size)
        photo, file.content = file.content.getvalue(), io.BytesIO()
        return photo
