"""The streams that are open: how many may be, and how all of them are closed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.budget import Budget
from service.errors import Draining, TooManyStreams

CLOSE_TIMEOUT_S = 2.0
"""How long streams have for their closing when the service stops."""


class Streams:
    """The streams that are open, so that there are not too many and that all are told when the service stops."""

    def __init__(self, limit: int) -> None:
        self._budget = Budget(limit, what="open streams", setting="TANDEM_MAX_STREAMS", error=TooManyStreams)
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
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this runs in a coroutine
        with self._budget.reserved():
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
