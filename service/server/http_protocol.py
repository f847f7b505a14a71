"""HTTP connections with limits: on the bytes and the time of a request, whatever the connection's state."""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import BadRequest, BrokenUpload, HeadTooLarge, SlowUpload, TandemError
from service.observability.metrics import Metrics
from service.server.refusals import Linger, refuse
from service.server.sliced_reader import MAX_SLICE_BYTES, SLICE_BYTES, SlicedReader
from service.server.write_timer import WriteTimer

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a request line and its headers; uvicorn has no limit of its own."""

MAX_FRAMING_BYTES = 8 * 1024
BODY_PER_FRAMING_BYTE = 16
"""A chunked body may have so many bytes around its chunks, and one more for so many bytes in them: each chunk
costs microseconds, so a large body must not be cut into pieces of a few bytes."""

MAX_HEADERS = 128
"""Maximum number of headers. Each look-up of one reads all of them."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, and with support for clients that close only their sending side.

    uvicorn itself parses further requests while an answer is due, and waits without limit for a request to be
    complete and for a client to read its answer. Here one timer runs whenever something is to be received and no
    answer is due; while one is due, the route's deadlines apply, and nothing else is parsed.
    """

    def __init__(
        self,
        *arguments: Any,
        timeout_s: float,
        metrics: Metrics,
        **options: Any,
    ) -> None:
        """Create a connection; all other arguments are uvicorn's.

        Args:
            arguments: passed to uvicorn.
            timeout_s: seconds for complete headers to arrive, and for a client to read any part of its answer.
            metrics: counts what is refused here.
            options: passed to uvicorn.
        """
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._receive_timer: asyncio.TimerHandle | None = None
        self._slice_bytes = 0
        self._framing_bytes = 0
        """Bytes of the request so far that are not its body."""
        self._body_bytes = 0
        self._announced_bytes = 0
        self._in_message = False
        self._in_body = False
        self._error: TandemError | None = None
        """Why the bytes were refused that were parsed last."""
        self._is_refused = False
        self._linger: Linger | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request's headers."""
        super().connection_made(transport)
        self._reader = SlicedReader(self.loop, transport, self._parse, self._is_held, self._next_slice)
        self._write_timer = WriteTimer(self.loop, transport, self._timeout_s)
        self.flow = _FlowControl(transport, self._reader)
        self._start_receive_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop everything."""
        self._stop_receive_timer()
        self._write_timer.stop()
        self._reader.discard()
        if self._linger:
            self._linger.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, or keep it for later; its first byte starts the timer."""
        if self._linger:
            self._linger.discard(data)
            return
        if not self._is_answer_due():
            self._unset_keepalive_if_required()
            self._start_receive_timer()
        self._reader.feed(data)

    def on_message_begin(self) -> None:
        """Count the bytes of a new request."""
        self._in_message, self._in_body = True, False
        self._framing_bytes, self._body_bytes = self._slice_bytes, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, but none of those after a chunked body."""
        if self._in_body:
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise self._failure(HeadTooLarge(f"the request has more than {MAX_HEADERS} headers"))

    def on_headers_complete(self) -> None:
        """Leave the rest of the request to the route's deadlines, if there is a route.

        A WebSocket's handshake has no body (RFC 9110, section 7.8: a body would have to arrive first).
        """
        self._in_body = True
        # From here on, what is not body is framing; the rest of this slice is not counted.
        self._framing_bytes = 0
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")
        self._announced_bytes = int(length) if length.isdigit() else 0
        if self.parser.should_upgrade() and self._should_upgrade():
            has_body = self._announced_bytes or b"transfer-encoding" in headers
            if has_body or self.parser.get_method() != b"GET":
                raise self._failure(BadRequest("a WebSocket handshake must be a GET request without a body"))
        super().on_headers_complete()
        self._stop_receive_timer()

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes; they have limits of their own."""
        self._body_bytes += len(body)
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request, if this one is answered already."""
        self._in_message = self._in_body = False
        super().on_message_complete()
        if self.cycle and self.cycle.response_complete:
            self._stop_receive_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Parse what has arrived meanwhile; if the request was not complete, give it time again."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._write_timer.start()
        elif self._is_refused and self._error:
            self._refuse(self._error)
        elif not self._is_answer_due() and (self._in_message or self._reader):
            self._unset_keepalive_if_required()
            self._start_receive_timer()
        self._reader.proceed()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, unless an answer is due on it."""
        if self._is_answer_due():
            self._refuse(BadRequest("a WebSocket handshake must wait for the answers to earlier requests"))
            return
        self._reader.discard()
        self._write_timer.stop()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; uvicorn calls this."""
        self._refuse(self._error or BadRequest("the request is not valid HTTP/1.1"))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open if an answer is still due, but do not accept another request on it."""
        if self._linger or self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Start the timer for a client that reads too slowly."""
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        """Stop the timer: the client has read most of the buffer."""
        self._write_timer.stop()
        super().resume_writing()

    def _parse(self, data: memoryview) -> None:
        self._slice_bytes = len(data)
        self._framing_bytes += len(data)
        super().data_received(data)  # type: ignore[arg-type]
        if self._is_refused:
            return
        if self._in_body:
            if self._framing_bytes <= MAX_FRAMING_BYTES + self._body_bytes // BODY_PER_FRAMING_BYTE:
                return
            around = f"{self._framing_bytes:,} bytes around {self._body_bytes:,} bytes of body"
            self._refuse(BrokenUpload(f"the chunks are too small: {around}"))
        elif self._framing_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"the request headers are larger than {MAX_HEAD_BYTES:,} bytes"))

    def _next_slice(self) -> int:
        """Take more at a time if it can only be a part of the body."""
        left = self._announced_bytes - self._body_bytes if self._in_body else 0
        return max(SLICE_BYTES, min(MAX_SLICE_BYTES, left))

    def _is_answer_due(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_held(self) -> bool:
        return self._is_refused or self.flow.read_paused or (self._is_answer_due() and not self.cycle.more_body)

    def _start_receive_timer(self) -> None:
        if self._receive_timer is None:
            self._receive_timer = self.loop.call_later(self._timeout_s, self._on_receive_timeout)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _on_receive_timeout(self) -> None:
        if self._in_body:
            self.transport.abort()  # this request is answered, and only the rest of its body is missing
        else:
            limit = f"{self._timeout_s:g} s (TANDEM_UPLOAD_TIMEOUT_S)"
            self._refuse(SlowUpload(f"the request headers did not arrive within {limit}"))

    def _failure(self, error: TandemError) -> TandemError:
        """Note an error, and return it to be raised: the parser replaces it by one of its own."""
        self._error = error
        return error

    def _refuse(self, error: TandemError) -> None:
        """Answer with an error and close the connection; wait for earlier answers first."""
        self._error, self._is_refused = error, True
        if self.transport.is_closing():
            return
        if self._is_answer_due():
            if self.pipeline or not self.cycle.more_body:
                return  # on_response_complete calls again
            if self.cycle.response_started:
                self.transport.abort()
                return
        if self._is_answer_due():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._stop_receive_timer()
        self._unset_keepalive_if_required()
        refuse(self.transport, error, self._metrics)
        self._linger = Linger(self.loop, self.transport)


class _FlowControl(FlowControl):
    """uvicorn's flow control, which must not resume reading while received bytes are not parsed yet."""

    def __init__(self, transport: asyncio.Transport, reader: SlicedReader) -> None:
        super().__init__(transport)
        self._reader = reader

    def resume_reading(self) -> None:
        """Let the reader parse on; it resumes the transport when it has parsed everything."""
        if self.read_paused:
            self.read_paused = False
            self._reader.proceed()
