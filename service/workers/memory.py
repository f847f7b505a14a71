"""How much memory photos that are decoded side by side may take."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class DecodingMemory:
    """Lets photos be decoded side by side as far as their pixels have room. To be used inside one event loop."""

    def __init__(self, limit: int) -> None:
        """At most ``limit`` bytes (``TANDEM_MAX_DECODING_BYTES``)."""
        self._limit = limit
        self._used = 0
        self._changed = asyncio.Condition()
        self._next = asyncio.Lock()

    @asynccontextmanager
    async def room(self, count: int) -> AsyncIterator[None]:
        """Wait for room for ``count`` bytes; one that needs more than there is works alone.

        Who has room needs nothing more to finish, so that all get it in the end; a large photo waits at the head
        of the line, where small ones cannot pass it for ever.
        """
        async with self._next, self._changed:
            await self._changed.wait_for(lambda: self._used == 0 or self._used + count <= self._limit)
            self._used += count
        try:
            yield
        finally:
            self._used -= count
            async with self._changed:
                self._changed.notify_all()
