"""A limited number of places for what holds memory or attention."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.errors import Draining, Overloaded, TooManyStreams


class Places:
    """Counts who is inside; to be used inside one event loop."""

    def __init__(self, limit: int, *, what: str, setting: str) -> None:
        """At most ``limit`` of ``what``, which the environment variable ``setting`` sets."""
        self._limit = limit
        self._what = what
        self._setting = setting
        self.taken = 0

    def take(self) -> None:
        """Take a place; to be given back by ``leave``.

        Raises:
            Overloaded: none is free.
        """
        if self.taken >= self._limit:
            raise Overloaded(f"{self.taken} {self._what} are worked on; no more are taken ({self._setting})")
        self.taken += 1

    def leave(self) -> None:
        """Give the place back."""
        self.taken -= 1


CLOSE_TIMEOUT_S = 2.0
"""How long streams have for their closing when the service stops."""


class Streams:
    """The streams that are open, so that there are not too many and that all are told when the service stops."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[asyncio.Task[Any]] = set()
        self.closing = asyncio.Event()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count the running task as a stream.

        Raises:
            Draining: the service is about to stop.
            TooManyStreams: as many are open as may be.
        """
        if self.closing.is_set():
            raise Draining("the service was told to stop")
        if len(self._open) >= self._limit:
            raise TooManyStreams(f"{self._limit} streams are open, which is the limit (TANDEM_MAX_STREAMS)")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this runs in a coroutine
        self._open.add(task)
        try:
            yield
        finally:
            self._open.discard(task)

    async def close(self) -> None:
        """End every stream with code 1001, and let none begin any more."""
        self.closing.set()
        if self._open:
            await asyncio.wait(self._open, timeout=CLOSE_TIMEOUT_S)
