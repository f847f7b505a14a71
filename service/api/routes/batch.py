"""Many photos in one request, answered line by line in the order in which they are done."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.analyzer import Analysis
from service.api.dependencies import AppState
from service.api.problems import describe
from service.api.responses import to_json
from service.api.uploads.batch import Photos
from service.budget import Budget
from service.errors import BrokenUpload, Overloaded, TandemError
from service.schemas import BatchLine
from service.workers.tasks import DetectionOptions

Result = TypeVar("Result")

LINES_TYPE = "application/x-ndjson"

NAME_LENGTH = 255

FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0
"""How long a photo waits before it tries a full queue again; doubled each time."""


@dataclass
class BatchStats:
    """What a batch came to."""

    faces: int = 0
    problems: int = 0


class BatchReader:
    """Answers the photos of one batch."""

    def __init__(
        self,
        app_state: AppState,
        memory: Budget,
        options: DetectionOptions,
        face_fields: frozenset[str],
        *,
        request_id: str,
    ) -> None:
        self._app_state = app_state
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

        workers = [asyncio.create_task(work()) for _ in range(min(len(names), self._app_state.settings.workers))]
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
            self._app_state.metrics.rejected.labels(error.slug).inc()
            line = BatchLine(index=index, name=name, problem=describe(error, self._request_id))
            return line.model_dump_json(exclude_none=True).encode() + b"\n"
        head = BatchLine(index=index, name=name).model_dump_json(exclude_none=True).encode()
        return head[:-1] + b',"answer":' + answer + b"}\n"

    async def _answer(self, photos: Photos, index: int) -> bytes:
        limit = self._app_state.settings.max_upload_bytes
        gives_up_at = time.monotonic() + self._app_state.settings.batch_patience_s
        with ExitStack() as held:

            async def fetch() -> bytes:
                held.enter_context(self._memory.reserved(min(photos.unpacked_bytes(index), limit)))
                return await asyncio.to_thread(photos.read, index, max_bytes=limit)

            data = await self._patiently(fetch, gives_up_at)
            if not data:
                raise BrokenUpload("the file is empty")

            async def analyze() -> Analysis:
                deadline = time.monotonic() + self._app_state.settings.request_timeout_s
                return await self._app_state.analyzer.analyze(data, self._options, deadline=deadline)

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
                await self._app_state.queue.wait_for_idle_worker()
        except TimeoutError:
            patience_s = self._app_state.settings.batch_patience_s
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
