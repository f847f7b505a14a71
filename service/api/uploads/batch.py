"""The photos of a batch: the files of a form, or of a ZIP archive."""

import asyncio
import io
from collections.abc import Sequence
from contextlib import closing
from typing import Protocol

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.uploads.body import SizeLimit, read_chunks, read_head, read_on, read_rest, unsupported
from service.api.uploads.multipart import FormFile, FormParser
from service.api.uploads.photo import FORM_TYPE, MAX_PARTS
from service.api.uploads.zip_archive import ZipArchive
from service.budget import Budget
from service.errors import BrokenUpload, SlowUpload, TooManyPhotos, UnsupportedUpload
from service.settings import Settings
from service.vision.file_types import form_boundary, is_photo, is_photo_text, is_zip

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
    """Read a multipart form (field ``images``, repeated), a ZIP archive or a single photo into memory.

    Content-Type is a hint: a body that starts like an archive or a photo is one.

    Raises:
        BrokenUpload: The body is empty or broken, or has no photo.
        UnsupportedUpload: The body is none of these.
        UploadTooLarge, TooManyPhotos: The batch as a whole exceeds a limit.
        Overloaded: There is no memory for it.
        SlowUpload: The body took too long to arrive.
    """
    timeout_s = settings.batch_upload_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, memory, settings)
    except TimeoutError:
        raise SlowUpload(
            f"the batch did not arrive within {timeout_s:g} s (TANDEM_BATCH_UPLOAD_TIMEOUT_S)"
        ) from None


async def _read(request: Request, memory: Budget, settings: Settings) -> Photos:
    kind, options = parse_options_header(request.headers.get("content-type"))
    limit = SizeLimit(settings.max_batch_bytes, "batch", "TANDEM_MAX_BATCH_BYTES")
    max_parts = settings.max_batch_photos + MAX_PARTS
    envelope = max_parts * ENVELOPE_BYTES if kind == FORM_TYPE else 0
    chunks = read_chunks(request, memory, limit, max_body_bytes=limit.max_bytes + envelope)
    head = await read_head(chunks)
    if is_photo(head):
        return FormPhotos([FormFile.of(await read_rest(head, chunks))])
    if is_zip(head) or kind in ZIP_TYPES:
        return await asyncio.to_thread(_open_zip, await read_rest(head, chunks), settings)
    if kind != FORM_TYPE:
        raise unsupported(
            kind,
            head,
            "no batch",
            f"multipart/form-data with files in field {FIELD!r}, or a ZIP archive as application/zip",
        )
    boundary = options.get(b"boundary") or form_boundary(head)
    form = FormParser(boundary, field=FIELD, max_parts=max_parts, max_file_bytes=settings.max_upload_bytes)
    with closing(form):
        async for chunk in read_on(head, chunks):
            form.feed(chunk)
            if len(form.files) > settings.max_batch_photos:
                raise TooManyPhotos(
                    f"the batch has more than {settings.max_batch_photos} photos (TANDEM_MAX_BATCH_PHOTOS)"
                )
    files = form.finish()
    _refuse_archives(files)
    _refuse_texts(files)
    return FormPhotos(files)


def _refuse_archives(files: Sequence[FormFile]) -> None:
    for file in files:
        if is_zip(file.head):
            raise UnsupportedUpload(
                f"field {file.field_name!r} holds a ZIP archive ({file.name[:100]!r}); send a ZIP archive as the "
                "body itself with Content-Type: application/zip, or its photos as the files of the form"
            )


def _refuse_texts(files: Sequence[FormFile]) -> None:
    """Refuse a text in place of a file, a program's mistake that concerns all of the batch."""
    for file in files:
        if not (file.name or file.encoding or is_photo(file.head) or is_photo_text(file.head)):
            raise BrokenUpload(
                f"field {file.field_name!r} holds {file.head[:50].decode('latin-1')!r}, which is neither a file "
                "nor a photo in base64"
            )


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
        """Return 0 unless the file is in base64: the bytes of the upload are handed over."""
        file = self._files[index]
        return file.size * 3 // 4 if file.is_text else 0

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """Return one photo and forget it.

        Raises:
            UploadTooLarge: It has more than ``max_bytes``.
            BrokenUpload, UnsupportedUpload: Its transfer encoding cannot be read.
        """
        file = self._files[index]
        if file.size > max_bytes:
            raise SizeLimit(max_bytes).error(file.size)
        photo, file.content = file.read(), io.BytesIO()
        return photo
