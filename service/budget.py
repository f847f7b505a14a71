"""Limits on what the service holds at a time: bytes, batches, streams, requests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from service.errors import Overloaded, TandemError


class Budget:
    """A limit and how much of it is in use. For use inside one event loop."""

    __slots__ = ("_error", "_setting", "_show", "_turns", "_what", "limit", "used")

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
        # A list, which is small while empty: the rate limiter has a budget for each of thousands of callers.
        self._turns: list[tuple[asyncio.Future[None], int]] = []

    def check(self, count: int = 1) -> None:
        """Raise the budget's error if ``count`` more would exceed the limit; reserves nothing."""
        if self.used + count > self.limit:
            used, more, limit = (self._show(amount) for amount in (self.used, count, self.limit))
            raise self._error(
                f"{self._what}: {used} in use, {more} more requested; the limit is {limit} ({self._setting})"
            )

    def reserve(self, count: int = 1) -> None:
        """Take ``count`` into use.

        Raises:
            TandemError: the limit would be exceeded; nothing is reserved.
        """
        self.check(count)
        self.used += count

    def release(self, count: int = 1) -> None:
        """Give ``count`` back."""
        self.used -= count
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


class FairBudget(Budget):
    """A budget that no caller can use up: one may hold ``SHARE`` times of what it leaves free.

    A lone caller gets two thirds, and whoever comes next gets two thirds of what is free then. With equal demand,
    n callers end up with 2 / (2n + 1) each (dynamic thresholds: A. Choudhury and E. Hahne, IEEE/ACM Transactions
    on Networking 6(2), 1998). Nothing is taken back: what was reserved before others came is released in its time.
    """

    __slots__ = ("_held",)

    SHARE = 2

    def __init__(self, limit: float, **options: Any) -> None:
        """Start with nothing in use; the arguments are those of ``Budget``."""
        super().__init__(limit, **options)
        self._held: Counter[str] = Counter()

    def check_for(self, caller: str, count: int) -> None:
        """Raise the budget's error if ``count`` more would exceed the limit or the caller's part of it."""
        self.check(count)
        held, may_hold = self._held[caller], self.SHARE * (self.limit - self.used - count)
        if held + count > may_hold:
            mine, more, total, limit = (self._show(amount) for amount in (held, count, self.used, self.limit))
            raise self._error(
                f"{self._what}: {mine} in use by this caller, {more} more requested; {total} of {limit} are in "
                f"use, and a caller may hold {self.SHARE} times of what it leaves free ({self._setting})"
            )

    def reserve_for(self, caller: str, count: int) -> None:
        """Take ``count`` into use for a caller.

        Raises:
            TandemError: the limit or the caller's part would be exceeded; nothing is reserved.
        """
        self.check_for(caller, count)
        self.used += count
        self._held[caller] += count

    def release_for(self, caller: str, count: int) -> None:
        """Give back ``count`` of what a caller holds."""
        self._held[caller] -= count
        if not self._held[caller]:
            del self._held[caller]
        self.release(count)

    @contextmanager
    def part(self, caller: str) -> Iterator[Budget]:
        """A budget for one of a caller's requests: what it reserves counts here, and is released at the end."""
        part = _Part(self, caller)
        try:
            yield part
        finally:
            part.release(part.used)


class _Part(Budget):
    """What one request holds of a ``FairBudget``."""

    __slots__ = ("_caller", "_whole")

    def __init__(self, whole: FairBudget, caller: str) -> None:
        super().__init__(
            whole.limit, what=whole._what, setting=whole._setting, show=whole._show, error=whole._error
        )
        self._whole = whole
        self._caller = caller

    def check(self, count: int = 1) -> None:
        self._whole.check_for(self._caller, count)

    def reserve(self, count: int = 1) -> None:
        self._whole.reserve_for(self._caller, count)
        self.used += count

    def release(self, count: int = 1) -> None:
        self.used -= count
        self._whole.release_for(self._caller, count)


def mebibytes(count: float) -> str:
    """A number of bytes, as an error's text gives it."""
    return f"{count / 1024**2:,.1f} MiB"
