"""The open streams: how many there may be, and how they are closed when the service stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.api.fair_places import FairPlaces
from service.errors import Draining, TooManyStreams

CLOSE_TIMEOUT_S = 2.0
"""How long streams may take to close when the service stops, or to make room for another caller's."""


class OpenStreams:
    """Counts the open streams, and tells them when the service stops or another caller needs their place."""

    def __init__(self, limit: int) -> None:
        self._places = FairPlaces(limit, what="open streams", setting="TANDEM_MAX_STREAMS", error=TooManyStreams)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._evictions: dict[asyncio.Event, str] = {}
        """For each open stream, in the order of their openings: what tells it to close, and its caller."""
        self._released = asyncio.Condition()
        self.closing = asyncio.Event()

    def __len__(self) -> int:
        """How many are open."""
        return self._places.used

    @asynccontextmanager
    async def admit(self, caller: str) -> AsyncIterator[asyncio.Event]:
        """Count the current task as a stream; yields the event that tells it to give up its place.

        If all places are taken and a caller has more than its fair part of them, its newest stream is closed.

        Raises:
            Draining: The service is about to stop.
            TooManyStreams: The limit is reached.
        """
        if self.closing.is_set():
            raise Draining("the service was told to stop")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - called in a coroutine
        await self._reserve(caller)
        evicted = asyncio.Event()
        self._tasks.add(task)
        self._evictions[evicted] = caller
        try:
            yield evicted
        finally:
            self._tasks.discard(task)
            del self._evictions[evicted]
            self._places.release(caller)
            async with self._released:
                self._released.notify_all()

    async def _reserve(self, caller: str) -> None:
        try:
            self._places.reserve(caller)
            return
        except TooManyStreams:
            greedy = self._places.greediest(caller)
            if greedy is None:
                raise
        before = self._places.used
        newest = [event for event, name in self._evictions.items() if name == greedy and not event.is_set()]
        if newest:
            newest[-1].set()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S), self._released:
                    await self._released.wait_for(lambda: self._places.used < before)
            except TimeoutError:
                pass
        self._places.reserve(caller)

    async def close(self) -> None:
        """Tell every stream to close with code 1001, wait for that, and admit no more."""
        self.closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)
