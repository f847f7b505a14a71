"""WebSocket connections with limits: on frames, on what a client leaves unread, and on the time for closing."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.errors import BadRequest
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

POLICY_VIOLATION = 1008
"""Close code of RFC 6455, section 7.4.1."""

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

    @property
    def payload_left(self) -> int:
        """How many bytes of the current frame's payload are still to come."""
        return self._payload_left

    def count(self, data: bytes | memoryview) -> None:
        """Count the frames that begin in ``data``, the next bytes of the connection.

        Raises:
            TooManyFrames: the connection has sent them too fast.
        """
        now = self._clock()
        refill = (now - self._counted_at) * MAX_FRAMES_PER_S
        self._allowed, self._counted_at = min(MAX_FRAMES_AT_ONCE, self._allowed + refill), now
        position = 0
        while position < len(data):
            if self._payload_left:
                step = min(self._payload_left, len(data) - position)
                self._payload_left -= step
                position += step
                continue
            self._header.append(data[position])
            position += 1
            self._finish_header()
        if self._allowed < 0:
            raise TooManyFrames

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
        header.clear()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol with limits.

    uvicorn itself parses everything that it has read at once, answers pings of a client that reads no pongs, and
    waits without limit for a client to read its last frame.
    """

    def __init__(self, *arguments: Any, timeout_s: float, metrics: Metrics, **options: Any) -> None:
        """Create a connection; all other arguments are uvicorn's.

        Args:
            arguments: passed to uvicorn.
            timeout_s: seconds for a client to read any part of what it was sent.
            metrics: counts what is refused here.
            options: passed to uvicorn.
        """
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._metrics = metrics
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
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._reader.proceed()
        return message

    async def send(self, message: Any) -> None:
        """Send a message; after a close frame, wait only so long for the client's."""
        await super().send(message)
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
            self._meter.count(data)
        except TooManyFrames:
            if self.close_sent:
                self.transport.abort()
                return
            self.conn.fail(POLICY_VIOLATION, f"more than {MAX_FRAMES_PER_S:,} frames per second")
            self.handle_parser_exception()
            return
        super().data_received(bytes(data))

    def _next_slice(self) -> int:
        return max(FRAME_SLICE_BYTES, min(MAX_SLICE_BYTES, self._meter.payload_left))

    def _is_held(self) -> bool:
        return self.read_paused or not self.writable.is_set()

    def _start_linger(self) -> None:
        self._reader.discard()
        if self._linger is None:
            self._linger = Linger(self.loop, self.transport)
        if self.close_timer is None:  # which keeps uvicorn from closing the connection at once
            self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _refuse_handshake(self, reason: str) -> None:
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        refuse(self.transport, BadRequest(f"the WebSocket handshake is invalid: {reason}"), self._metrics)
        self._start_linger()
