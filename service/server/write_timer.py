"""Ends connections whose clients do not read what they asked for."""

import asyncio

MIN_READ_BYTES = 1024
"""Bytes that a client has to read in the time limit; a byte now and then would hold an answer for days."""


class WriteTimer:
    """Aborts a connection if its client reads less than ``MIN_READ_BYTES`` in a period."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, period_s: float) -> None:
        self._loop = loop
        self._transport = transport
        self._period_s = period_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start watching: something is written that the client has not read."""
        if self._timer is None:
            unread = self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(self._period_s, self._abort_unless_read, unread)

    def stop(self) -> None:
        """Stop watching: the client has read most of it, or the connection is lost."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _abort_unless_read(self, unread: int) -> None:
        self._timer = None
        if unread - self._transport.get_write_buffer_size() < MIN_READ_BYTES:
            self._transport.abort()
        else:
            self.start()
