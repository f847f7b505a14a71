"""HTTP connections with deadlines: for request headers that never end, and for clients that never read."""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.problems import PROBLEM_TYPE, describe
from service.errors import HeadTooLarge, SlowUpload, TandemError

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a request line and its headers; uvicorn has no limit of its own."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with two deadlines, and with support for clients that close only their sending side.

    uvicorn itself waits without limit for the rest of a request's headers and for a client to read its answer.
    """

    def __init__(self, *arguments: Any, timeout_s: float, **options: Any) -> None:
        """Create a connection; all arguments but ``timeout_s`` are uvicorn's.

        Args:
            arguments: passed to uvicorn.
            timeout_s: seconds for complete headers to arrive, and for a client to read any part of its answer.
            options: passed to uvicorn.
        """
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_body = False
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request's headers."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        for timer in (self._head_timer, self._write_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the timer for the next request's headers; uvicorn's keep-alive timer stops at their first byte."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_head_timer()
        # The rest of a refused request's body is discarded and does not count as headers.
        self._head_bytes += 0 if self._in_body else len(data)
        super().data_received(data)
        if self._head_timer and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"the request headers are larger than {MAX_HEAD_BYTES:,} bytes"))

    def on_headers_complete(self) -> None:
        """Stop the timer for the headers."""
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Count bytes as headers again."""
        self._in_body = False
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open if an answer is still due, but do not accept another request on it."""
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Start the timer for a client that reads too slowly."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Stop the timer: the client has read most of the buffer."""
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _start_head_timer(self) -> None:
        error = SlowUpload(
            f"the request headers did not arrive within {self._timeout_s:g} s (TANDEM_UPLOAD_TIMEOUT_S)"
        )
        self._head_timer = self.loop.call_later(self._timeout_s, self._refuse, error)
        self._head_bytes = 0

    def _refuse(self, error: TandemError) -> None:
        if self.transport.is_closing():
            return
        phrase = HTTPStatus(error.status).phrase
        body = describe(error, uuid.uuid4().hex).model_dump_json(exclude_none=True).encode()
        head = f"HTTP/1.1 {error.status:d} {phrase}\r\nContent-Type: {PROBLEM_TYPE}\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.transport.close()

    def _start_write_timer(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._timeout_s, self._abort_unless_read, unread)

    def _abort_unless_read(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._start_write_timer()  # slow, but the client does read
        else:
            self.transport.abort()
