"""``WS /v1/stream``: frames in, answers out. If frames come faster than answers, the newest frame wins."""

import asyncio
import logging
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.api.dependencies import AppState, app_state_of
from service.api.params import PhotoQuery
from service.api.problems import from_error
from service.api.responses import to_json
from service.api.routes.frames import Frame, FrameRate, NewestFrame
from service.api.uploads.body import SizeLimit
from service.budget import Budget
from service.errors import BadParameter, Draining, ForeignOrigin, NoStreamHere, TandemError
from service.observability.logging import REQUEST_LOGGER
from service.observability.request_context import RequestContext
from service.schemas import FrameEmotions, FrameProblem, PhotoEmotions, TrackedFace
from service.vision.tracking import Tracker
from service.workers.tasks import DetectionOptions

GOING_AWAY: Final = 1001
UNSUPPORTED: Final = 1003
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
TRY_LATER: Final = 1013
"""Close codes of RFC 6455, section 7.4.1, and of IANA's registry (1013)."""

PROTOCOL: Final = "tandem.v1"
"""The subprotocol that this route speaks."""

MAX_REASON_BYTES = 123
"""Bytes that a close frame has for its reason (RFC 6455, section 5.5)."""

router = APIRouter()

logger = logging.getLogger(REQUEST_LOGGER)


class StreamQuery(PhotoQuery):
    """Query parameters of a stream: those of a photo, which apply to each frame, and two more."""

    track: bool = False
    """Whether to number the faces, with the same number for the same face from frame to frame."""
    smooth: float = Field(0, ge=0, lt=1, allow_inf_nan=False)
    """Share of a face's previous probabilities in the next answer, from 0 to below 1. Above 0 faces are tracked,
    and a face keeps its label until another leads by 0.1."""


@dataclass(frozen=True)
class CloseReason:
    """Why a stream ends; ``ours`` if the service ends it and has to send a close frame."""

    code: int
    reason: str = ""
    ours: bool = True


def check_origin(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Refuse pages of other sites, since browsers let any page open a WebSocket to any host.

    A client that sends no ``Origin`` is not a browser. Only host and port are compared: a proxy may terminate TLS.

    Raises:
        ForeignOrigin: The origin is neither the service's own nor in ``allowed``.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    if origin != "null" and urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return
    raise ForeignOrigin(f"origin {origin[:100]!r} may not open a stream (TANDEM_CORS_ORIGINS)")


def read_query(socket: WebSocket, app_state: AppState) -> tuple[StreamQuery, DetectionOptions]:
    """Parse the query parameters of a stream.

    Raises:
        BadParameter: A parameter is unknown or has an invalid value.
    """
    try:
        query = StreamQuery.model_validate(dict(socket.query_params))
    except ValidationError as error:
        details = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise BadParameter("; ".join(details)) from None
    return query, query.options(app_state.settings)


@router.websocket("/v1/stream")
async def read_stream(socket: WebSocket) -> None:
    """Each binary message is a JPEG, PNG or WebP; each answer is JSON and names the frame that it is for."""
    app_state = app_state_of(socket.app)
    try:
        check_origin(socket.headers, app_state.settings.cors_origins)
    except TandemError as error:
        # Before the stream is accepted, this is an HTTP response. Browsers hide it from the page.
        await socket.send_denial_response(from_error(socket.scope, error))
        return
    # A client that offers a key as a subprotocol offers this one too: a browser needs one of its offers accepted.
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
    context = RequestContext.of(socket.scope)
    session = StreamSession(socket, app_state, context)
    try:
        async with app_state.streams.admit(context.caller) as evicted:
            with app_state.metrics.streams.track_inprogress(), app_state.uploads.part(context.caller) as memory:
                closure = await session.run(memory, evicted)
    except TandemError as error:
        closure = await session.refuse(error)
    except Exception:
        logger.exception("unexpected error")
        closure = CloseReason(INTERNAL, "something went wrong; the log has more")
    await session.close(closure)


@router.websocket("/{path:path}")
async def refuse_other_paths(socket: WebSocket) -> None:
    """Answer a handshake for any other path; Starlette would close it with an empty 403."""
    error = NoStreamHere(f"{socket.url.path[:200]!r} is no stream; /v1/stream is")
    await socket.send_denial_response(from_error(socket.scope, error))


class StreamSession:
    """One open stream."""

    def __init__(self, socket: WebSocket, app_state: AppState, context: RequestContext) -> None:
        self._socket = socket
        self._app_state = app_state
        self._context = context
        self._newest = NewestFrame()
        self._waiting_bytes = 0
        self._dropped = 0
        self._answered = 0
        self._started = time.perf_counter()

    async def run(self, memory: Budget, evicted: asyncio.Event) -> CloseReason:
        """Receive and answer frames until the client, an error, the service's stop or ``evicted`` ends the stream.

        Raises:
            BadParameter: The query is invalid.
            Overloaded: There is no memory for the next frame.
        """
        query, options = read_query(self._socket, self._app_state)
        tasks = [
            asyncio.create_task(self._receive(memory)),
            asyncio.create_task(self._answer(memory, query, options)),
            asyncio.create_task(self._wait_for_stop()),
            asyncio.create_task(self._wait_for_eviction(evicted)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        except WebSocketDisconnect as disconnect:
            return CloseReason(disconnect.code, disconnect.reason or "", ours=False)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_stop(self) -> CloseReason:
        await self._app_state.streams.closing.wait()
        return CloseReason(GOING_AWAY, "the service is shutting down")

    async def _wait_for_eviction(self, evicted: asyncio.Event) -> CloseReason:
        await evicted.wait()
        return CloseReason(TRY_LATER, "another caller needs a place (TANDEM_MAX_STREAMS), and you have several")

    async def _receive(self, memory: Budget) -> CloseReason:
        settings, frames = self._app_state.settings, self._app_state.metrics.frames
        limit = SizeLimit(settings.max_frame_bytes, "frame", "TANDEM_MAX_FRAME_BYTES")
        rate = FrameRate(settings.max_frames_per_s, time.monotonic())
        while True:
            try:
                async with asyncio.timeout(settings.stream_idle_s):
                    message = await self._socket.receive()
            except TimeoutError:
                return CloseReason(POLICY, f"no frame for {settings.stream_idle_s:g} s (TANDEM_STREAM_IDLE_S)")
            if message["type"] == "websocket.disconnect":
                return CloseReason(message["code"], message.get("reason") or "", ours=False)
            photo = message.get("bytes")
            if photo is None:
                return CloseReason(UNSUPPORTED, "a frame must be a binary message with a JPEG, PNG or WebP")
            if len(photo) > limit.max_bytes:
                return CloseReason(TOO_BIG, limit.error(len(photo)).detail)
            if not rate.allows(time.monotonic()):
                per_s = f"{settings.max_frames_per_s:g}"
                return CloseReason(POLICY, f"more than {per_s} frames per second (TANDEM_MAX_FRAMES_PER_S)")
            memory.reserve(len(photo))
            if self._newest.put(photo):
                memory.release(self._waiting_bytes)
                self._dropped += 1
                frames.labels("dropped").inc()
            self._waiting_bytes = len(photo)

    async def _answer(self, memory: Budget, query: StreamQuery, options: DetectionOptions) -> CloseReason:
        app_state, frames = self._app_state, self._app_state.metrics.frames
        tracker = Tracker(query.smooth) if query.track or query.smooth else None
        while True:
            frame = await self._newest.take()
            deadline = time.monotonic() + app_state.settings.request_timeout_s
            try:
                app_state.limiter.take_photo(self._context.caller)
                analysis = await app_state.analyzer.analyze(frame.photo, options, deadline=deadline)
            except TandemError as error:
                frames.labels(error.slug).inc()
                await self._socket.send_text(self._problem(error, frame).model_dump_json(exclude_none=True))
                continue
            finally:
                memory.release(len(frame.photo))
            answer = compose(frame, analysis.answer, tracker)
            await self._socket.send_text(to_json(answer, query.face_fields()).decode())
            frames.labels("answered").inc()
            self._answered += 1

    def _problem(self, error: TandemError, frame: Frame | None) -> FrameProblem:
        return FrameProblem(
            type=f"urn:tandem:problem:{error.slug}",
            title=error.title,
            status=error.status,
            detail=error.detail,
            request_id=self._context.request_id,
            frame=frame.number if frame else None,
            dropped=frame.dropped if frame else None,
        )

    async def refuse(self, error: TandemError) -> CloseReason:
        """Send the problem in full, since a close frame has little space, and return the close reason."""
        try:
            await self._socket.send_text(self._problem(error, None).model_dump_json(exclude_none=True))
        except WebSocketDisconnect as disconnect:
            return CloseReason(disconnect.code, ours=False)
        overloaded = error.status == HTTPStatus.SERVICE_UNAVAILABLE
        code = GOING_AWAY if isinstance(error, Draining) else TRY_LATER if overloaded else POLICY
        return CloseReason(code, error.detail)

    async def close(self, closure: CloseReason) -> None:
        """Send a close frame unless the client has, and log the stream."""
        if closure.ours:
            try:
                await self._socket.close(closure.code, shortened(closure.reason))
            except (WebSocketDisconnect, RuntimeError):
                logger.debug("the client closed the stream first")
        fields = {
            "request_id": self._context.request_id,
            "route": "/v1/stream",
            "code": closure.code,
            "reason": closure.reason if closure.ours else "closed by the client",
            "frames": self._newest.received,
            "answered": self._answered,
            "dropped": self._dropped,
            "duration_ms": round((time.perf_counter() - self._started) * 1000, 1),
        }
        logger.info("stream", extra={"fields": fields})


def compose(frame: Frame, answer: PhotoEmotions, tracker: Tracker | None) -> FrameEmotions:
    """Build the answer for a frame; its faces have track numbers if there is a tracker."""
    faces = tracker.update(answer.faces) if tracker else [TrackedFace(**dict(face)) for face in answer.faces]
    return FrameEmotions(
        frame=frame.number, dropped=frame.dropped, image=answer.image, faces=faces, model=answer.model
    )


def shortened(reason: str) -> str:
    """Cut a reason to what fits into a close frame."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
