"""``POST /v1/emotions/batch``: many photos in one request, answered line by line as they are done."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.analyzer import Analysis
from service.api.dependencies import AppState, AppStateDep, UploadBudget
from service.api.params import DetectionQuery, PhotoQuery
from service.api.problems import PHOTO_PROBLEMS, describe
from service.api.responses import to_json
from service.api.routes.emotions import BINARY
from service.api.uploads.batch import FIELD, Photos, read_batch
from service.budget import Budget
from service.errors import BrokenUpload, Overloaded, TandemError
from service.observability.request_context import RequestContext
from service.schemas import BatchLine, SelectedBatchLine
from service.workers.tasks import DetectionOptions

Result = TypeVar("Result")

LINES_TYPE = "application/x-ndjson"

MAX_NAME_LENGTH = 255

MIN_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0
"""How long a photo that was refused waits before it is tried again; doubled each time."""

BATCH_FORM: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "title": "BatchForm",
            "type": "object",
            "required": [FIELD],
            "properties": {
                FIELD: {
                    "type": "array",
                    "minItems": 1,
                    "items": BINARY,
                    "description": "The photos, as files; the field is repeated for each.",
                }
            },
        }
    }
}
ZIP_ARCHIVE: dict[str, Any] = {
    kind: {"schema": BINARY} for kind in ("application/zip", "application/octet-stream")
}

BATCH_BODY: dict[str, Any] = {
    "required": True,
    "description": f'The photos: files in the repeated field "{FIELD}", or a ZIP archive of files in any folders.',
    "content": {**BATCH_FORM, **ZIP_ARCHIVE},
}

BATCH_PROBLEMS = {status: answer for status, answer in PHOTO_PROBLEMS.items() if status != 406}

router = APIRouter()


@router.post(
    "/v1/emotions/batch",
    operation_id="readBatch",
    tags=["emotions"],
    summary="Read many photos in one request",
    response_class=Response,
    responses={
        200: {
            "description": "One line of JSON of this form for each photo, in the order in which they are done.",
            "content": {LINES_TYPE: {"schema": {"$ref": f"#/components/schemas/{SelectedBatchLine.__name__}"}}},
        },
        **BATCH_PROBLEMS,
    },
    openapi_extra={"requestBody": BATCH_BODY},
)
async def read_batch_of_emotions(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: Annotated[PhotoQuery, Query()]
) -> Response:
    """Each photo gets an answer or a problem of its own; one that cannot be read does not affect the others.

    A batch gives way to single photos: under load it takes longer instead of being refused.
    """
    analysis, release = await start_batch(request, app_state, memory, query)
    return BatchResponse(analysis, release, as_lines, LINES_TYPE)


async def start_batch(
    request: Request,
    app_state: AppState,
    memory: Budget,
    query: DetectionQuery,
) -> tuple["BatchAnalysis", Callable[[], None]]:
    """Read the batch in a request; returns its analysis and what to call when that has ended, whatever happens."""
    context = RequestContext.of(request.scope)
    options = query.options(app_state.settings)
    app_state.batches.check(context.caller)
    photos = await read_batch(request, memory, app_state.settings)
    await app_state.triton.model_spec()  # without a model, answer one problem instead of one for each photo
    # Only now: a place held during the upload would be held for nothing, and by callers who never send anything.
    app_state.batches.reserve(context.caller)
    app_state.limiter.charge_photos(context.caller, len(photos.names) - 1)
    analysis = BatchAnalysis(app_state, memory, photos, options, query.face_fields(), context)
    return analysis, partial(app_state.batches.release, context.caller)


async def as_lines(answers: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    """Write each answer of ``BatchAnalysis.lines`` as a line."""
    async for _, answer in answers:
        yield answer + b"\n"


async def as_document(answers: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    """Write the answers as one JSON document (``BatchEmotions``), in the order of the upload."""
    yield b'{"photos":['
    waiting: dict[int, bytes] = {}  # for those before them: at most as many as a batch may have photos
    position = 0
    async for index, answer in answers:
        waiting[index] = answer
        while position in waiting:
            yield (b"," if position else b"") + waiting.pop(position)
            position += 1
    yield b"]}"


class BatchAnalysis:
    """Analyzes the photos of one batch."""

    def __init__(
        self,
        app_state: AppState,
        memory: Budget,
        photos: Photos,
        options: DetectionOptions,
        face_fields: frozenset[str],
        context: RequestContext,
    ) -> None:
        self._app_state = app_state
        self._settings = app_state.settings
        self._memory = memory
        self._photos = photos
        self._options = options
        self._face_fields = face_fields
        self._context = context

    async def lines(self) -> AsyncGenerator[tuple[int, bytes]]:
        """Yield the index and the JSON (``BatchLine``) of each photo, in the order in which they are done.

        At most one photo per worker is analyzed at a time, and only when a worker is idle: single photos go first.
        """
        names = self._photos.names
        indices = iter(range(len(names)))
        # Of length 1: a caller that reads slowly slows down its own batch, and answers do not pile up in memory.
        done: asyncio.Queue[tuple[int, bytes] | Exception] = asyncio.Queue(maxsize=1)

        async def analyze_next() -> None:
            try:
                for index in indices:
                    await done.put((index, await self._line(index, names[index][:MAX_NAME_LENGTH])))
            except Exception as error:
                await done.put(error)  # raised by the consumer; here it would be lost

        tasks = [asyncio.create_task(analyze_next()) for _ in range(min(len(names), self._settings.workers))]
        self._context.faces = 0
        try:
            for _ in names:
                line = await done.get()
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _line(self, index: int, name: str) -> bytes:
        try:
            analysis = await self._analyze(index)
        except TandemError as error:
            self._app_state.metrics.rejected.labels(error.slug).inc()
            line = BatchLine(index=index, name=name, problem=describe(error, self._context.request_id))
            return line.model_dump_json(exclude_none=True).encode()
        self._context.faces = (self._context.faces or 0) + len(analysis.answer.faces)
        answer = to_json(analysis.answer, self._face_fields)
        head = BatchLine(index=index, name=name).model_dump_json(exclude_none=True).encode()
        return head[:-1] + b',"answer":' + answer + b"}"

    async def _analyze(self, index: int) -> Analysis:
        max_bytes = self._settings.max_upload_bytes
        start_by = time.monotonic() + self._settings.batch_patience_s
        with ExitStack() as reserved:

            async def read() -> bytes:
                unpacked_bytes = min(self._photos.unpacked_bytes(index), max_bytes)
                reserved.enter_context(self._memory.reserved(unpacked_bytes))
                return await asyncio.to_thread(self._photos.read, index, max_bytes=max_bytes)

            photo = await self._when_idle(read, start_by)
            if not photo:
                raise BrokenUpload("the file is empty")

            async def analyze() -> Analysis:
                deadline = time.monotonic() + self._settings.request_timeout_s
                return await self._app_state.analyzer.analyze(photo, self._options, deadline=deadline)

            return await self._when_idle(analyze, start_by)

    async def _when_idle(self, attempt: Callable[[], Awaitable[Result]], start_by: float) -> Result:
        """Wait for an idle worker and make an attempt; repeat both while it is refused for want of room."""
        pause_s = MIN_PAUSE_S
        while True:
            await self._wait_for_idle_worker(start_by)
            try:
                return await attempt()
            except Overloaded:
                if time.monotonic() + pause_s > start_by:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_PAUSE_S, pause_s * 2)

    async def _wait_for_idle_worker(self, start_by: float) -> None:
        try:
            async with asyncio.timeout_at(start_by):
                await self._app_state.queue.wait_for_idle_worker()
        except TimeoutError:
            raise Overloaded(
                f"no worker was idle for {self._settings.batch_patience_s:g} s, and a batch gives way to single "
                "photos (TANDEM_BATCH_PATIENCE_S)"
            ) from None


class BatchResponse(StreamingResponse):
    """Streams the answers; then, whatever happens, ends the analysis and calls ``release``."""

    def __init__(
        self,
        analysis: BatchAnalysis,
        release: Callable[[], None],
        compose: Callable[[AsyncIterator[tuple[int, bytes]]], AsyncIterator[bytes]],
        media_type: str,
    ) -> None:
        self._lines = analysis.lines()
        self._release = release
        # The header tells proxies not to collect the answer first.
        super().__init__(compose(self._lines), media_type=media_type, headers={"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the answer."""
        try:
            async with aclosing(self._lines):
                await super().__call__(scope, receive, send)
        finally:
            self._release()
