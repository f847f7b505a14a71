"""Many photos in one request, answered line by line in the order in which they are done."""

import asyncio
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.analyzer import Analysis
from service.api.dependencies import Gateway
from service.api.problems import describe
from service.api.responses import to_json
from service.api.uploads.body import MAX_PARTS, read_chunks, too_large
from service.api.uploads.multipart import FormReader
from service.api.uploads.zip_archive import ZipArchive
from service.budget import Budget
from service.errors import BrokenUpload, Overloaded, SlowUpload, TandemError, TooManyPhotos, UnsupportedUpload
from service.schemas import BatchLine
from service.settings import Settings
from service.workers.tasks import DetectionOptions

Result = TypeVar("Result")

FIELD = "images"
"""Name of the multipart field, once for each photo."""

ZIP_TYPES = (b"application/zip", b"application/x-zip-compressed")
LINES_TYPE = "application/x-ndjson"

ENVELOPE_BYTES = 1024
"""What a multipart body may have around each photo."""

NAME_LENGTH = 255

FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0
"""How long a photo waits before it tries a full queue again; doubled each time."""


class Photos(Protocol):
    """The photos of a batch."""

    @property
    def names(self) -> Sequence[str]:
        """Their file names; as many as there are photos."""

    def unpacked_bytes(self, index: int) -> int:
        """How many bytes are held, beside those of the upload, once this photo is read."""

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """One photo's bytes; blocks for some milliseconds.

        Raises:
            TandemError: this photo cannot be had.
        """


async def read_batch(request: Request, memory: Budget, settings: Settings) -> Photos:
    """The photos of a multipart form (field ``images``, repeated) or a ZIP archive, held in memory.

    Raises:
        BrokenUpload: the body is empty or broken, or has no photo.
        UnsupportedUpload: the content type is neither form.
        UploadTooLarge, TooManyPhotos: it is over a limit as a whole.
        Overloaded: with it more bytes would be held than may be.
        SlowUpload: the body took too long to arrive.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    limit = settings.max_batch_bytes
    try:
        async with asyncio.timeout(settings.batch_upload_timeout_s):
            if kind == b"multipart/form-data":
                form = BatchForm(options.get(b"boundary"), settings)
                async for chunk in _chunks(
                    request, memory, limit, (settings.max_batch_photos + MAX_PARTS) * ENVELOPE_BYTES
                ):
                    form.feed(chunk)
                return form.finish()
            if kind in ZIP_TYPES:
                body = io.BytesIO()
                async for chunk in _chunks(request, memory, limit, 0):
                    body.write(chunk)
                return await asyncio.to_thread(_archive, body.getvalue(), settings)
    except TimeoutError:
        raise SlowUpload(
            f"the batch did not arrive within {settings.batch_upload_timeout_s:g} s "
            "(TANDEM_BATCH_UPLOAD_TIMEOUT_S)"
        ) from None
    given = f"content type «{kind.decode('latin-1')}»" if kind else "a body without a content type"
    raise UnsupportedUpload(
        f"{given} is not read here; a batch is taken as multipart/form-data with files in field «{FIELD}», "
        "or as application/zip"
    )


def _chunks(request: Request, memory: Budget, limit: int, envelope: int) -> AsyncIterator[bytes]:
    return read_chunks(request, memory, limit, limit + envelope, what="batch", setting="TANDEM_MAX_BATCH_BYTES")


def _archive(data: bytes, settings: Settings) -> ZipArchive:
    archive = ZipArchive(data, max_photos=settings.max_batch_photos, max_bytes=settings.max_batch_bytes)
    if not archive.names:
        raise BrokenUpload("the ZIP archive has no files")
    return archive


class BatchForm(FormReader):
    """Collects the photos of a form; one that is too large is dropped, and the others are kept."""

    def __init__(self, boundary: bytes | None, settings: Settings) -> None:
        super().__init__(boundary, max_parts=settings.max_batch_photos + MAX_PARTS)
        self._settings = settings
        self._wanted = False
        self._sizes: list[int] = []
        self._photos: list[bytearray] = []
        self.names: list[str] = []

    def begin(self, name: str, filename: str) -> None:
        """Start another photo, unless the field is another one.

        Raises:
            TooManyPhotos: there are as many as may be.
        """
        self._wanted = name == FIELD
        if self._wanted:
            limit = self._settings.max_batch_photos
            if len(self.names) >= limit:
                raise TooManyPhotos(f"the batch has more than {limit} photos (TANDEM_MAX_BATCH_PHOTOS)")
            self.names.append(filename)
            self._photos.append(bytearray())
            self._sizes.append(0)

    def take(self, content: bytes) -> None:
        """Keep the bytes, as long as the photo is not too large."""
        if self._wanted:
            self._sizes[-1] += len(content)
            if self._sizes[-1] <= self._settings.max_upload_bytes:
                self._photos[-1] += content
            else:
                self._photos[-1].clear()

    def finish(self) -> "BatchForm":
        """The form itself, once all of it is there.

        Raises:
            BrokenUpload: it is cut off or has no photo.
        """
        if not self.complete:
            raise BrokenUpload("the multipart body is empty or cut off")
        if not self.names:
            raise BrokenUpload(f"the form has no field «{FIELD}»")
        return self

    def unpacked_bytes(self, index: int) -> int:
        """None: a photo's bytes are handed over."""
        return 0

    def read(self, index: int, *, max_bytes: int) -> bytes:
        """One photo's bytes, once: they are not kept.

        Raises:
            UploadTooLarge: it had more than ``max_bytes``.
        """
        if self._sizes[index] > max_bytes:
            raise too_large(self._sizes[index], max_bytes)
        photo = bytes(self._photos[index])
        self._photos[index].clear()
        return photo


@dataclass
class BatchStats:
    """What a batch came to."""

    faces: int = 0
    problems: int = 0


class BatchReader:
    """Answers the photos of one batch."""

    def __init__(
        self,
        gateway: Gateway,
        memory: Budget,
        options: DetectionOptions,
        face_fields: frozenset[str],
        *,
        request_id: str,
    ) -> None:
        self._gateway = gateway
        self._memory = memory
        self._options = options
        self._face_fields = face_fields
        self._request_id = request_id
        self.tally = BatchStats()

    async def lines(self, photos: Photos) -> AsyncGenerator[bytes]:
        """A line of JSON for each photo, in the order in which they are done; see ``BatchLine``.

        No more photos are in work than there are processes, and each waits until one of those is idle: single
        requests go first.
        """
        names = photos.names
        todo = iter(range(len(names)))
        # Short: a caller who does not read holds up his own batch, and memory does not fill with answers.
        done: asyncio.Queue[bytes | Exception] = asyncio.Queue(maxsize=1)

        async def work() -> None:
            try:
                for index in todo:
                    await done.put(await self._line(photos, index, names[index]))
            except Exception as error:
                await done.put(error)  # in a task of its own it would be seen by nobody

        workers = [asyncio.create_task(work()) for _ in range(min(len(names), self._gateway.settings.workers))]
        try:
            for _ in names:
                line = await done.get()
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _line(self, photos: Photos, index: int, name: str) -> bytes:
        name = name[:NAME_LENGTH]
        try:
            answer = await self._answer(photos, index)
        except TandemError as error:
            self.tally.problems += 1
            self._gateway.metrics.rejected.labels(error.slug).inc()
            line = BatchLine(index=index, name=name, problem=describe(error, self._request_id))
            return line.model_dump_json(exclude_none=True).encode() + b"\n"
        head = BatchLine(index=index, name=name).model_dump_json(exclude_none=True).encode()
        return head[:-1] + b',"answer":' + answer + b"}\n"

    async def _answer(self, photos: Photos, index: int) -> bytes:
        limit = self._gateway.settings.max_upload_bytes
        gives_up_at = time.monotonic() + self._gateway.settings.batch_patience_s
        with ExitStack() as held:

            async def fetch() -> bytes:
                held.enter_context(self._memory.reserved(min(photos.unpacked_bytes(index), limit)))
                return await asyncio.to_thread(photos.read, index, max_bytes=limit)

            data = await self._patiently(fetch, gives_up_at)
            if not data:
                raise BrokenUpload("the file is empty")

            async def analyze() -> Analysis:
                deadline = time.monotonic() + self._gateway.settings.request_timeout_s
                return await self._gateway.analyzer.analyze(data, self._options, deadline=deadline)

            analysis = await self._patiently(analyze, gives_up_at)
        self.tally.faces += len(analysis.answer.faces)
        return to_json(analysis.answer, self._face_fields)

    async def _patiently(self, step: Callable[[], Awaitable[Result]], gives_up_at: float) -> Result:
        """Do ``step`` when a process is idle, and again as long as there is no room for it."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._turn(gives_up_at)
            try:
                return await step()
            except Overloaded:
                if time.monotonic() + pause_s > gives_up_at:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_PAUSE_S, pause_s * 2)

    async def _turn(self, gives_up_at: float) -> None:
        """Wait until a process is idle."""
        try:
            async with asyncio.timeout(max(0.0, gives_up_at - time.monotonic())):
                await self._gateway.queue.idle()
        except TimeoutError:
            patience_s = self._gateway.settings.batch_patience_s
            raise Overloaded(
                f"no process was idle within {patience_s:g} s, and a batch gives way to single photos "
                "(TANDEM_BATCH_PATIENCE_S)"
            ) from None


class BatchResponse(StreamingResponse):
    """Streams the lines; whatever becomes of that, the work is ended and the place given back."""

    def __init__(self, request: Request, reader: BatchReader, photos: Photos, leave: Callable[[], None]) -> None:
        self._lines = reader.lines(photos)
        self._state = request.state
        self._reader = reader
        self._leave = leave
        # A proxy that collects the lines would keep them till the end.
        super().__init__(self._lines, media_type=LINES_TYPE, headers={"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the answer."""
        try:
            async with aclosing(self._lines):
                await super().__call__(scope, receive, send)
        finally:
            self._state.faces = self._reader.tally.faces
            self._leave()
