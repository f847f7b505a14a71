"""The open streams: how many there may be, and how they are closed when the service stops."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.budget import Budget
from service.errors import Draining, TooManyStreams

CLOSE_TIMEOUT_S = 2.0
"""How long streams may take to close when the service stops."""


class OpenStreams:
    """Counts the open streams, and tells them when the service stops."""

    def __init__(self, limit: int) -> None:
        self._budget = Budget(limit, what="open streams", setting="TANDEM_MAX_STREAMS", error=TooManyStreams)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing = asyncio.Event()

    def __len__(self) -> int:
        """How many are open."""
        return self._budget.used

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count the current task as a stream.

        Raises:
            Draining: The service is about to stop.
            TooManyStreams: The limit is reached.
        """
        if self.closing.is_set():
            raise Draining("the service was told to stop")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - called in a coroutine
        with self._budget.reserved():
            self._tasks.add(task)
            try:
                yield
            finally:
                self._tasks.discard(task)

    async def close(self) -> None:
        """Tell every stream to close with code 1001, wait for that, and admit no more."""
        self.closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)
