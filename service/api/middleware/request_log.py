"""What surrounds every request: its id, its metrics, its line in the log, and an answer when all else failed."""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import from_error, problem_response
from service.errors import Draining, TandemError
from service.observability.logging import REQUEST_LOGGER
from service.observability.metrics import Metrics, exemplar
from service.observability.request_context import route_of
from service.observability.tracing import Tracing

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What is taken over from a caller's X-Request-ID: nothing that could break a log or a header."""

QUIET_ROUTES = ("/livez", "/readyz", "/metrics")
"""Routes that are asked every few seconds; their successes are logged at level debug."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that get a metric of their own; a caller may invent any number of others."""

SECURITY_HEADERS = {
    # Answers tell of people's faces: no cache on the way may keep them, no page of another site may show them.
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    # An answer that a browser is made to open as a document may load nothing, run nothing and be framed nowhere.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer that does not set them itself, as the page does. TLS, and so HSTS, is the proxy's."""

RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

CLIENT_CLOSED_REQUEST = 499
"""Status in metrics and log of a caller who left before the answer; nothing is sent."""

SEVERE = 500

logger = logging.getLogger(REQUEST_LOGGER)


def request_id_of(scope: Scope) -> str:
    """The caller's X-Request-ID, or a new one where there is none or one that could break a log."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


class RequestLogMiddleware:
    """Pure ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens in it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with self._tracing.server_span(scope):
            if scope["type"] == "http":
                await self._observe(scope, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["request_id"] = request_id_of(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                set_already = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", state["request_id"].encode()),
                    *(header for header in RAW_SECURITY_HEADERS if header[0] not in set_already),
                ]
            await send(message)

        started = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_CLOSED_REQUEST
            except asyncio.CancelledError:
                if not status:  # the service ends, and has waited for this request as long as it waits for any
                    response = from_error(scope, Draining("the service was told to stop and could wait no longer"))
                    await response(scope, receive, send_with_id)
                raise
            except Exception:
                logger.exception("unexpected error", extra={"fields": {"request_id": state["request_id"]}})
                if status:
                    raise  # half an answer is sent: all that is left is to break the connection
                response = problem_response(
                    scope,
                    status=TandemError.status,
                    slug=TandemError.slug,
                    title=TandemError.title,
                    detail="something went wrong here; the log has more under this request's id",
                )
                await response(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        route = route_of(scope)
        state["status"] = status
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.duration.labels(route).observe(seconds, exemplar())
        fields = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
        }
        if "caller" in state:
            fields["caller"] = state["caller"]
        if "faces" in state:
            fields["faces"] = state["faces"]
        if "problem" in state:
            fields["problem"] = state["problem"]
            self._metrics.rejected.labels(state["problem"]).inc()
        level = logging.INFO
        if status >= SEVERE:
            level = logging.WARNING
        elif route in QUIET_ROUTES:
            level = logging.DEBUG
        logger.log(level, "request", extra={"fields": fields})
