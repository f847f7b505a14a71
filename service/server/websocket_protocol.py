"""WebSocket connections with limits: on frames, unfinished messages, what a client leaves unread, and closing."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.budget import Budget
from service.errors import BadRequest, TandemError
from service.observability.metrics import Metrics
from service.server.refusals import Linger, refuse
from service.server.sliced_reader import MAX_SLICE_BYTES, SlicedReader
from service.server.write_timer import WriteTimer

MAX_FRAMES_PER_S = 500
"""Maximum frames per second, fragments and pings included. Parsing one takes some 10 us, however small it is."""

MAX_FRAMES_AT_ONCE = 500
"""Frames that a connection may send in a burst."""

FRAME_SLICE_BYTES = 512
"""Bytes that are parsed at a time where they may be many frames."""

POLICY_VIOLATION, TRY_LATER = 1008, 1013
"""Close codes of RFC 6455, section 7.4.1, and of IANA's registry (1013)."""

MAX_REASON_BYTES = 123
"""Bytes that a close frame has for its reason (RFC 6455, section 5.5)."""

FINAL_FRAME, CONTROL_FRAME = 0x80, 0x08
"""Bits of a frame's first byte: the last frame of its message; not part of a message (RFC 6455, section 5.2)."""

CLOSE_TIMEOUT_S = 2.0
"""How long a client may take to answer a close frame."""


class TooManyFrames(Exception):
    """A connection has sent more frames than it may."""


class FrameMeter:
    """Counts frames by their headers (RFC 6455, section 5.2), before anything else reads them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted_at = clock()
        self._allowed = float(MAX_FRAMES_AT_ONCE)
        self._header = bytearray()
        self._payload_left = 0
        self._is_control = False
        self._in_message = False

    @property
    def payload_left(self) -> int:
        """How many bytes of the current frame's payload are still to come."""
        return self._payload_left

    @property
    def is_between_messages(self) -> bool:
        """Whether every message and frame that began is complete."""
        return not (self._header or self._payload_left or self._in_message)

    def count(self, data: bytes | memoryview) -> int:
        """Count the frames that begin in ``data``, the next bytes of the connection.

        Returns:
            How many of the bytes belong to messages.

        Raises:
            TooManyFrames: the connection has sent them too fast.
        """
        now = self._clock()
        refill = (now - self._counted_at) * MAX_FRAMES_PER_S
        self._allowed, self._counted_at = min(MAX_FRAMES_AT_ONCE, self._allowed + refill), now
        position = in_messages = 0
        while position < len(data):
            if self._payload_left:
                step = min(self._payload_left, len(data) - position)
                self._payload_left -= step
                position += step
                in_messages += 0 if self._is_control else step
                continue
            self._header.append(data[position])
            position += 1
            self._finish_header()
        if self._allowed < 0:
            raise TooManyFrames
        return in_messages

    def _finish_header(self) -> None:
        header = self._header
        if len(header) < 2:
            return
        length = header[1] & 0x7F
        length_bytes = {126: 2, 127: 8}.get(length, 0)
        if len(header) < 2 + length_bytes + (4 if header[1] & 0x80 else 0):
            return
        self._payload_left = int.from_bytes(header[2 : 2 + length_bytes]) if length_bytes else length
        self._allowed -= 1
        self._is_control = bool(header[0] & CONTROL_FRAME)
        if not self._is_control:
            self._in_message = not header[0] & FINAL_FRAME
        header.clear()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol with limits.

    uvicorn itself parses everything that it has read at once, holds parts of messages for any time, answers pings
    of a client that reads no pongs, and waits without limit for a client to read its last frame.
    """

    def __init__(
        self,
        *arguments: Any,
        timeout_s: float,
        metrics: Metrics,
        memory_for: Callable[[Any], AbstractContextManager[Budget]],
        **options: Any,
    ) -> None:
        """Create a connection; all other arguments are uvicorn's.

        Args:
            arguments: passed to uvicorn.
            timeout_s: seconds for a message to arrive, and for a client to read any part of what it was sent.
            metrics: counts what is refused here.
            memory_for: makes the budget for unfinished messages from the scope of the stream that was accepted.
            options: passed to uvicorn.
        """
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._memory_for = memory_for
        self._memory: Budget | None = None
        self._memory_stack = ExitStack()
        self._message_timer: asyncio.TimerHandle | None = None
        self._meter = FrameMeter()
        self._linger: Linger | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over the connection."""
        super().connection_made(transport)
        self._reader = SlicedReader(self.loop, transport, self._parse, self._is_held, self._next_slice)
        self._write_timer = WriteTimer(self.loop, transport, self._timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop everything."""
        self._reader.discard()
        self._write_timer.stop()
        self._stop_message_timer()
        self._memory_stack.close()
        if self._linger:
            self._linger.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, or keep it for later."""
        if self._linger:
            self._linger.discard(data)
        elif self.handshake_initiated:
            self._reader.feed(data)
        else:
            super().data_received(data)  # all of the handshake, whose size HttpProtocol has limited
            if not self.handshake_initiated:
                self._refuse_handshake(str(self.conn.handshake_exc))

    def eof_received(self) -> None:
        """Let the connection be closed: a stream needs both directions."""

    def handle_parser_exception(self) -> None:
        """Send the close frame that a wrong frame calls for, and wait a little until the client has read it."""
        assert self.conn.close_sent is not None  # noqa: S101 - this is what uvicorn and websockets promise
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._start_linger()

    def send_receive_event_to_app(self) -> None:
        """Close with 1007 on text that is not UTF-8; uvicorn does, too, but logs a traceback as an error."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(1007)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_connect(self, event: Any) -> None:
        """Answer a handshake that is wrong with a problem."""
        response = self.conn.accept(event)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
        else:
            self._refuse_handshake(response.body.decode(errors="replace").strip())

    def pause_writing(self) -> None:
        """Start the timer for a client that reads too slowly."""
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        """Stop the timer, and parse on."""
        super().resume_writing()
        self._write_timer.stop()
        self._reader.proceed()

    async def receive(self) -> Any:
        """Return the next message, and parse on when all are taken."""
        message = await self.queue.get()
        if self._memory and message["type"] == "websocket.receive":
            self._memory.release(len(message.get("bytes") or b""))  # the app counts it from here
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._reader.proceed()
        return message

    async def send(self, message: Any) -> None:
        """Send a message; after a close frame, wait only so long for the client's."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            self._reader.proceed()
        if self.close_timer:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)
            self._reader.proceed()

    def shutdown(self) -> None:
        """Close the connection because the service stops; uvicorn calls this."""
        super().shutdown()
        self._start_linger()

    def _parse(self, data: memoryview) -> None:
        try:
            self._hold(self._meter.count(data))
        except TooManyFrames:
            self._fail(POLICY_VIOLATION, f"more than {MAX_FRAMES_PER_S:,} frames per second")
            return
        except TandemError as error:
            self._fail(TRY_LATER, error.detail)
            return
        super().data_received(bytes(data))
        if self._meter.is_between_messages:
            self._stop_message_timer()
        elif self._message_timer is None:
            self._message_timer = self.loop.call_later(self._timeout_s, self._on_message_timeout)

    def _hold(self, count: int) -> None:
        if self._memory is None:
            self._memory = self._memory_stack.enter_context(self._memory_for(self.scope))
        if not self.close_sent:  # afterwards, messages are forgotten
            self._memory.reserve(count)

    def _on_message_timeout(self) -> None:
        limit = f"{self._timeout_s:g} s (TANDEM_UPLOAD_TIMEOUT_S)"
        self._fail(POLICY_VIOLATION, f"a message did not arrive within {limit}")

    def _stop_message_timer(self) -> None:
        if self._message_timer:
            self._message_timer.cancel()
            self._message_timer = None

    def _fail(self, code: int, reason: str) -> None:
        if self.close_sent:
            self.transport.abort()
            return
        self.conn.fail(code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))
        self.handle_parser_exception()

    def _next_slice(self) -> int:
        return max(FRAME_SLICE_BYTES, min(MAX_SLICE_BYTES, self._meter.payload_left))

    def _is_held(self) -> bool:
        return not self.handshake_complete or self.read_paused or not self.writable.is_set()

    def _start_linger(self) -> None:
        self._reader.discard()
        self._stop_message_timer()
        if self._linger is None:
            self._linger = Linger(self.loop, self.transport)
        if self.close_timer is None:  # which keeps uvicorn from closing the connection at once
            self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _refuse_handshake(self, reason: str) -> None:
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        refuse(self.transport, BadRequest(f"the WebSocket handshake is invalid: {reason}"), self._metrics)
        self._start_linger()
