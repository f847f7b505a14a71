"""HTTP connections that nobody can hold for ever: not by a head that never ends, nor by not reading the answer."""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.problems import PROBLEM_TYPE, describe
from service.errors import HeadTooLarge, SlowUpload, TandemError

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request line and its headers; uvicorn itself would collect them without end."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's connection with two deadlines and an ear for callers who close their sending side only.

    uvicorn itself waits without end for the rest of a request's head, and for a caller to read.
    """

    def __init__(self, *arguments: Any, patience_s: float, **options: Any) -> None:
        """As uvicorn does it; ``patience_s`` is for a whole head, and for an answer of which nothing is read."""
        super().__init__(*arguments, **options)
        self._patience_s = patience_s
        self._head: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_body = False
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head from now on."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        for timer in (self._head, self._unread):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Expect a head after an answer, too; uvicorn's own deadline for the next request ends with any byte."""
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        # What is left of a body that was refused is dropped, and is no head.
        self._head_bytes += 0 if self._in_body else len(data)
        super().data_received(data)
        if self._head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"the request's head has more than {MAX_HEAD_BYTES:,} bytes"))

    def on_headers_complete(self) -> None:
        """The head is there."""
        if self._head:
            self._head.cancel()
            self._head = None
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there."""
        self._in_body = False
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether an answer is still owed: then the connection stays open for it, and for no other request."""
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """The caller reads more slowly than we write."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The caller has read most of it."""
        if self._unread:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _expect_head(self) -> None:
        error = SlowUpload(f"the request's head did not arrive within {self._patience_s:g} s")
        self._head = self.loop.call_later(self._patience_s, self._refuse, error)
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

    def _watch_reader(self) -> None:
        self._unread = self.loop.call_later(
            self._patience_s, self._give_up, self.transport.get_write_buffer_size()
        )

    def _give_up(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._watch_reader()  # slow, but it reads
        else:
            self.transport.abort()
