"""Received bytes are parsed in small slices, so that no client occupies the event loop or fills a buffer."""

import asyncio
from collections.abc import Callable

SLICE_BYTES = 2048
"""Bytes that are parsed without a look at whether the parser may go on."""

MAX_SLICE_BYTES = 64 * 1024
"""Bytes that are parsed at a time where they are known to be part of one body or message."""

TURN_S = 0.002
"""How long the bytes of one connection are parsed before the other connections get their turn."""


class SlicedReader:
    """Passes received bytes to a parser, and pauses reading while some of them are not parsed yet.

    So no more is held than one read of the transport (256 KiB), whatever the client sends and however slowly it
    reads its answers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        parse: Callable[[memoryview], None],
        is_held: Callable[[], bool],
        next_slice: Callable[[], int] = lambda: SLICE_BYTES,
    ) -> None:
        """Start with nothing received.

        Args:
            loop: runs the later turns.
            transport: reading from it is paused and resumed.
            parse: takes the next bytes.
            is_held: whether the parser must not get more, because an answer is due or a buffer is full.
            next_slice: how many bytes the parser may get at a time.
        """
        self._loop = loop
        self._transport = transport
        self._parse = parse
        self._is_held = is_held
        self._next_slice = next_slice
        self._left = memoryview(b"")
        self._turn: asyncio.Handle | None = None

    def __len__(self) -> int:
        """How many bytes are not parsed yet."""
        return len(self._left)

    def feed(self, data: bytes) -> None:
        """Take received bytes, and parse them if the parser is not held."""
        self._left = memoryview(bytes(self._left) + data if self._left else data)
        if self._turn is None:
            self._take_turn()

    def proceed(self) -> None:
        """Parse on in the next turn of the event loop: the parser may no longer be held."""
        if self._turn is None:
            self._turn = self._loop.call_soon(self._take_turn)

    def discard(self) -> None:
        """Forget what is not parsed, because the connection ends."""
        self._left = memoryview(b"")
        if self._turn:
            self._turn.cancel()
            self._turn = None

    def _take_turn(self) -> None:
        self._turn = None
        ends_at = self._loop.time() + TURN_S
        while self._left and not self._transport.is_closing() and not self._is_held():
            size = self._next_slice()
            piece, self._left = self._left[:size], self._left[size:]
            self._parse(piece)
            if self._left and self._loop.time() > ends_at:
                self.proceed()
                break
        if self._transport.is_closing():
            self.discard()
        elif self._left:
            self._transport.pause_reading()
        else:
            self._left = memoryview(b"")  # otherwise the last slice would keep all of the bytes
            self._transport.resume_reading()
