"""Limits on what the service holds at a time: bytes, batches, streams, requests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.errors import Overloaded, TandemError


class Budget:
    """A limit and how much of it is in use. For use inside one event loop."""

    __slots__ = ("_error", "_setting", "_show", "_turns", "_what", "_whole", "limit", "used")

    def __init__(
        self,
        limit: float,
        *,
        what: str,
        setting: str,
        show: Callable[[float], str] = "{:,.0f}".format,
        error: type[TandemError] = Overloaded,
    ) -> None:
        """Start with nothing in use.

        Args:
            limit: how much may be in use at a time; ``math.inf`` is no limit.
            what: what is counted, as the error's text calls it.
            setting: environment variable that sets the limit.
            show: writes an amount for the error's text.
            error: raised where the limit would be exceeded.
        """
        self.limit = limit
        self.used = 0
        self._what = what
        self._setting = setting
        self._show = show
        self._error = error
        self._whole: Budget | None = None
        # A list, which is small while empty: the rate limiter has a budget for each of thousands of callers.
        self._turns: list[tuple[asyncio.Future[None], int]] = []

    def check(self, count: int = 1) -> None:
        """Raise the budget's error if ``count`` more would exceed the limit; reserves nothing."""
        if self._whole:
            self._whole.check(count)
        elif self.used + count > self.limit:
            used, more, limit = (self._show(amount) for amount in (self.used, count, self.limit))
            raise self._error(
                f"{self._what}: {used} in use, {more} more requested; the limit is {limit} ({self._setting})"
            )

    def reserve(self, count: int = 1) -> None:
        """Take ``count`` into use.

        Raises:
            TandemError: the limit would be exceeded; nothing is reserved.
        """
        if self._whole:
            self._whole.reserve(count)
        else:
            self.check(count)
        self.used += count

    def release(self, count: int = 1) -> None:
        """Give ``count`` back."""
        self.used -= count
        if self._whole:
            self._whole.release(count)
        self._admit_waiting()

    @contextmanager
    def reserved(self, count: int = 1) -> Iterator[None]:
        """Reserve ``count`` and release it at the end.

        Raises:
            TandemError: the limit would be exceeded.
        """
        self.reserve(count)
        try:
            yield
        finally:
            self.release(count)

    @asynccontextmanager
    async def reserved_in_turn(self, count: int = 1) -> AsyncIterator[None]:
        """Wait until ``count`` fits, first come, first served; release it at the end.

        A count above the limit is admitted once nothing else is in use. A holder must not need another reservation
        to finish, or holders could block each other.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append((turn, count))
        self._admit_waiting()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit_waiting()
            else:
                self.release(count)
            raise
        try:
            yield
        finally:
            self.release(count)

    def _admit_waiting(self) -> None:
        while self._turns:
            turn, count = self._turns[0]
            if not turn.cancelled():
                if self.used and self.used + count > self.limit:
                    return
                self.used += count
                turn.set_result(None)
            del self._turns[0]

    @contextmanager
    def part(self) -> Iterator["Budget"]:
        """A budget for one request: what it reserves counts here too, and all of it is released at the end."""
        part = Budget(self.limit, what=self._what, setting=self._setting, show=self._show, error=self._error)
        part._whole = self
        try:
            yield part
        finally:
            part.release(part.used)


def mebibytes(count: float) -> str:
    """A number of bytes, as an error's text gives it."""
    return f"{count / 1024**2:,.1f} MiB"
