"""Answers to what is not a request: nothing of the app ever sees it."""

import asyncio
import logging
import uuid
from http import HTTPStatus

from service.api.problems import PROBLEM_TYPE, describe
from service.errors import TandemError
from service.observability.logging import REQUEST_LOGGER
from service.observability.metrics import Metrics

ROUTE, METHOD = "unmatched", "other"
"""What metrics and log say of a request that was not read to its end."""

LINGER_S = 2.0
LINGER_BYTES = 1024 * 1024
"""How long a refused client may go on sending, and how much."""

logger = logging.getLogger(REQUEST_LOGGER)


def refuse(transport: asyncio.Transport, error: TandemError, metrics: Metrics) -> None:
    """Answer with a problem, as the last thing on the connection, and record it as for any other request."""
    request_id = uuid.uuid4().hex
    status = HTTPStatus(error.status)
    body = describe(error, request_id).model_dump_json(exclude_none=True).encode()
    head = (
        f"HTTP/1.1 {status:d} {status.phrase}\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
    )
    transport.write(head.encode() + body)
    transport.write_eof()
    metrics.requests.labels(ROUTE, METHOD, f"{status:d}").inc()
    metrics.rejected.labels(error.slug).inc()
    fields = {"request_id": request_id, "route": ROUTE, "status": int(status), "problem": error.slug}
    logger.info("request", extra={"fields": fields})


class Linger:
    """Discards what a refused client still sends, until it closes the connection or has had its time.

    If the connection were closed with bytes unread, TCP would reset it, and the client might never see the answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left = LINGER_BYTES
        self._timer = loop.call_later(LINGER_S, transport.abort)
        if not transport.is_closing():
            transport.resume_reading()

    def discard(self, data: bytes) -> None:
        """Forget these bytes, or abort the connection if they are too many."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def stop(self) -> None:
        """Stop waiting: the connection is lost."""
        self._timer.cancel()
