"""The outermost middleware: request ids, traces, metrics, a log line per request, and an answer to any error."""

import asyncio
import logging
import math
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
from service.observability.request_context import RequestContext
from service.observability.tracing import Tracing

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What a caller's X-Request-ID may be: nothing that could break a log or a header."""

QUIET_ROUTES = ("/livez", "/readyz", "/metrics")
"""Routes that are polled every few seconds; their successes are logged at level debug."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods with metrics of their own; callers can invent any number of others."""

SECURITY_HEADERS = {
    # Answers describe people's faces: no cache may store them, and no page of another site may show them.
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    # If a browser opens an answer as a document, that may load nothing, run nothing and be framed nowhere.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Set on every answer that does not set them itself, as the page does. TLS, and so HSTS, is up to the proxy."""

RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

CLIENT_CLOSED_REQUEST = 499
"""Status in metrics and logs if the caller left before the answer; nothing is sent."""

logger = logging.getLogger(REQUEST_LOGGER)


def request_id_of(scope: Scope) -> str:
    """Return the caller's X-Request-ID, or a new one if it is missing or could break a log."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


class RequestLogMiddleware:
    """Pure ASGI middleware around the whole app; creates the ``RequestContext``."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, tracing: Tracing, request_timeout_s: float = math.inf
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._request_timeout_s = request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever goes wrong in it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        deadline = time.monotonic() + self._request_timeout_s
        with self._tracing.server_span(scope, request_id_of(scope), deadline) as context:
            if scope["type"] == "http":
                await self._answer(context, receive, send)
            else:
                await self._open_stream(context, receive, send)

    async def _answer(self, context: RequestContext, receive: Receive, send: Send) -> None:
        scope = context.scope

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", context.request_id.encode()),
                    *(header for header in RAW_SECURITY_HEADERS if header[0] not in present),
                ]
            await send(message)

        started = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_with_headers)
            except ClientDisconnect:
                context.status = CLIENT_CLOSED_REQUEST
            except asyncio.CancelledError:
                if context.status is None:  # the service stops, and this request took longer than it waits
                    error = Draining("the service was told to stop, and could not wait longer for this request")
                    await from_error(scope, error)(scope, receive, send_with_headers)
                raise
            except Exception:
                logger.exception("unexpected error")
                if context.status is not None:
                    raise  # part of the answer is sent, so that only the connection can be broken
                response = problem_response(
                    scope,
                    status=TandemError.status,
                    slug=TandemError.slug,
                    title=TandemError.title,
                    detail="something went wrong; the log has more under this request id",
                )
                await response(scope, receive, send_with_headers)
            finally:
                self._record(context, time.perf_counter() - started)

    async def _open_stream(self, context: RequestContext, receive: Receive, send: Send) -> None:
        """Pass a WebSocket on; one that is refused is answered, and so recorded, like a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "websocket.http.response.start":
                context.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", context.request_id.encode())]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(context.scope, receive, send_with_headers)
        finally:
            if context.status is not None:
                self._record(context, time.perf_counter() - started)

    def _record(self, context: RequestContext, seconds: float) -> None:
        route, status, method = context.route, context.status or 0, context.scope.get("method", "GET")
        self._metrics.requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self._metrics.duration.labels(route).observe(seconds, exemplar())
        if context.problem:
            self._metrics.rejected.labels(context.problem).inc()
        fields = {
            "request_id": context.request_id,
            "method": method if method in METHODS else "other",
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "caller": context.key_name,
            "faces": context.faces,
            "problem": context.problem,
        }
        level = logging.INFO
        if status >= TandemError.status:
            level = logging.WARNING
        elif route in QUIET_ROUTES:
            level = logging.DEBUG
        known = {name: value for name, value in fields.items() if value is not None}
        logger.log(level, "request", extra={"fields": known})
