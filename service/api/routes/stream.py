"""``WS /v1/stream``: frames in, answers out; where frames come faster than answers, the newest frame wins."""

import asyncio
import logging
import time
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.api.dependencies import AppState, app_state_of
from service.api.middleware.request_log import request_id_of
from service.api.params import PhotoQuery
from service.api.problems import from_error
from service.api.responses import to_json
from service.api.routes.frames import Frame, FrameRate, NewestFrame
from service.budget import Budget
from service.errors import BadParameter, Draining, ForeignOrigin, TandemError
from service.observability.logging import REQUEST_LOGGER
from service.schemas import FrameEmotions, FrameProblem, PhotoEmotions, TrackedFace
from service.settings import MEBIBYTE
from service.vision.tracking import Tracker
from service.workers.tasks import DetectionOptions

GOING_AWAY = 1001
UNSUPPORTED = 1003
POLICY = 1008
TOO_BIG = 1009
INTERNAL = 1011
TRY_LATER = 1013
"""Close codes of RFC 6455, section 7.4.1, and of IANA's registry (1013)."""

PROTOCOL = "tandem.v1"
"""The subprotocol that this route speaks."""

MAX_REASON_BYTES = 123
"""Bytes that a close frame has for its reason (RFC 6455, section 5.5)."""

router = APIRouter()

logger = logging.getLogger(REQUEST_LOGGER)


class StreamQuery(PhotoQuery):
    """Query parameters of a stream: those of a photo, for each frame, and two more."""

    track: bool = False
    """Number the faces, the same number for the same face from frame to frame."""
    smooth: float = Field(0, ge=0, lt=1, allow_inf_nan=False)
    """How much of a face's former probabilities stays in the next answer, from 0 to below 1; tracks the faces."""


@dataclass(frozen=True)
class CloseReason:
    """Why a stream ends. ``mine`` where this side ends it, and has to say so."""

    code: int
    reason: str = ""
    mine: bool = True


def check_origin(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Refuse a page of another site that makes its visitor's browser connect here; browsers ask no leave for that.

    A client that sends no ``Origin`` is no browser. Only host and port are compared: a proxy may take the TLS off.

    Raises:
        ForeignOrigin: the origin is neither this service's own nor in ``allowed``.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    if origin != "null" and urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return
    raise ForeignOrigin(f"origin «{origin[:100]}» is not allowed to open a stream (TANDEM_CORS_ORIGINS)")


def read_query(socket: WebSocket, app_state: AppState) -> tuple[StreamQuery, DetectionOptions]:
    """The query parameters of a stream.

    Raises:
        BadParameter: one is unknown or has a value that is not allowed.
    """
    try:
        query = StreamQuery.model_validate(dict(socket.query_params))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise BadParameter("; ".join(faults)) from None
    return query, query.options(app_state.settings)


@router.websocket("/v1/stream")
async def read_stream(socket: WebSocket) -> None:
    """One JPEG, PNG or WebP a binary message; each answer is JSON and names the frame that it is for."""
    app_state = app_state_of(socket.app)
    state = socket.scope.setdefault("state", {})
    state["request_id"] = request_id_of(socket.scope)
    try:
        check_origin(socket.headers, app_state.settings.cors_origins)
    except TandemError as error:
        # Before the stream is there: a browser cannot read this, and the others get it as after any request.
        await socket.send_denial_response(from_error(socket.scope, error))
        return
    # Whoever offers a key as a subprotocol offers this one too: a browser wants one of its offers to be taken.
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
    conversation = StreamSession(socket, app_state, state["request_id"])
    try:
        with (
            app_state.streams.admit(),
            app_state.metrics.streams.track_inprogress(),
            app_state.uploads.part() as memory,
        ):
            closure = await conversation.hold(memory)
    except TandemError as error:
        closure = await conversation.refuse(error)
    except Exception:
        logger.exception("unexpected error", extra={"fields": {"request_id": state["request_id"]}})
        closure = CloseReason(INTERNAL, "something went wrong here; the log has more")
    await conversation.end(closure)


class StreamSession:
    """One open stream."""

    def __init__(self, socket: WebSocket, app_state: AppState, request_id: str) -> None:
        self._socket = socket
        self._app_state = app_state
        self._request_id = request_id
        self._newest = NewestFrame()
        self._waiting = 0  # bytes of the frame that waits
        self._dropped = 0
        self._answered = 0
        self._began = time.perf_counter()

    async def hold(self, memory: Budget) -> CloseReason:
        """Read frames and answer them, side by side, until one of both or the service's stop ends it.

        Raises:
            BadParameter: the query is wrong.
            Overloaded: there is no memory for the next frame.
        """
        query, options = read_query(self._socket, self._app_state)
        tasks = [
            asyncio.create_task(self._receive(memory)),
            asyncio.create_task(self._answer(memory, query, options)),
            asyncio.create_task(self._stop()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        except WebSocketDisconnect as left:
            return CloseReason(left.code, left.reason or "", mine=False)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> CloseReason:
        await self._app_state.streams.closing.wait()
        return CloseReason(GOING_AWAY, "the service is shutting down")

    async def _receive(self, memory: Budget) -> CloseReason:
        settings, frames = self._app_state.settings, self._app_state.metrics.frames
        rate = FrameRate(settings.max_frames_per_s, time.monotonic())
        while True:
            try:
                async with asyncio.timeout(settings.stream_idle_s):
                    message = await self._socket.receive()
            except TimeoutError:
                return CloseReason(POLICY, f"no frame for {settings.stream_idle_s:g} s (TANDEM_STREAM_IDLE_S)")
            if message["type"] == "websocket.disconnect":
                return CloseReason(message["code"], message.get("reason") or "", mine=False)
            data = message.get("bytes")
            if data is None:
                return CloseReason(UNSUPPORTED, "a frame is a binary message: a JPEG, PNG or WebP")
            if len(data) > settings.max_frame_bytes:
                size, limit = len(data) / MEBIBYTE, settings.max_frame_bytes / MEBIBYTE
                return CloseReason(
                    TOO_BIG, f"{size:,.1f} MiB; the limit is {limit:,.1f} MiB (TANDEM_MAX_FRAME_BYTES)"
                )
            if not rate.allows(time.monotonic()):
                per_s = f"{settings.max_frames_per_s:g}"
                return CloseReason(POLICY, f"more than {per_s} frames a second (TANDEM_MAX_FRAMES_PER_S)")
            memory.reserve(len(data))
            if self._newest.put(data):
                memory.release(self._waiting)
                self._dropped += 1
                frames.labels("dropped").inc()
            self._waiting = len(data)

    async def _answer(self, memory: Budget, query: StreamQuery, options: DetectionOptions) -> CloseReason:
        tracker = Tracker(query.smooth) if query.track or query.smooth else None
        frames = self._app_state.metrics.frames
        while True:
            frame = await self._newest.take()
            try:
                self._socket.state.take_frame()
                deadline = time.monotonic() + self._app_state.settings.request_timeout_s
                analysis = await self._app_state.analyzer.analyze(frame.data, options, deadline=deadline)
            except TandemError as error:
                frames.labels(error.slug).inc()
                await self._socket.send_text(self._problem(error, frame).model_dump_json(exclude_none=True))
                continue
            finally:
                memory.release(len(frame.data))
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
            request_id=self._request_id,
            frame=frame.number if frame else None,
            dropped=frame.dropped if frame else None,
        )

    async def refuse(self, error: TandemError) -> CloseReason:
        """Say in full why there is no stream: a close frame has little room for words."""
        try:
            await self._socket.send_text(self._problem(error, None).model_dump_json(exclude_none=True))
        except WebSocketDisconnect as left:
            return CloseReason(left.code, mine=False)
        busy = error.status == HTTPStatus.SERVICE_UNAVAILABLE
        code = GOING_AWAY if isinstance(error, Draining) else TRY_LATER if busy else POLICY
        return CloseReason(code, error.detail)

    async def end(self, closure: CloseReason) -> None:
        """Close, if the other side has not, and write the stream's line in the log."""
        if closure.mine:
            try:
                await self._socket.close(closure.code, shortened(closure.reason))
            except (WebSocketDisconnect, RuntimeError):
                logger.debug("the other side was quicker to close")
        fields = {
            "request_id": self._request_id,
            "route": "/v1/stream",
            "code": closure.code,
            "reason": closure.reason if closure.mine else "closed by the client",
            "frames": self._newest.received,
            "answered": self._answered,
            "dropped": self._dropped,
            "duration_ms": round((time.perf_counter() - self._began) * 1000, 1),
        }
        logger.info("stream", extra={"fields": fields})


def compose(frame: Frame, answer: PhotoEmotions, tracker: Tracker | None) -> FrameEmotions:
    """The answer for a frame, its faces tracked where there is a tracker."""
    faces = tracker.update(answer.faces) if tracker else [TrackedFace(**dict(face)) for face in answer.faces]
    return FrameEmotions(
        frame=frame.number, dropped=frame.dropped, image=answer.image, faces=faces, model=answer.model
    )


def shortened(reason: str) -> str:
    """As much of a reason as a close frame can carry."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
