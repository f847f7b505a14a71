"""Places for batches and streams, of which every caller gets a fair part."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from service.errors import Overloaded, TandemError

MAX_REMEMBERED = 1000
"""Refused callers that are remembered."""

WAITING_S = 5.0
"""How long after it was refused a caller counts as waiting for a place."""


class FairPlaces:
    """A number of places, and who holds them. For one event loop.

    One caller may hold all places while nobody else wants one. A caller that was refused and holds none counts as
    waiting for some seconds: meanwhile, places that become free are not given to callers who have their part.
    """

    def __init__(
        self,
        limit: int,
        *,
        what: str,
        setting: str,
        error: type[TandemError] = Overloaded,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with all places free.

        Args:
            limit: how many places there are.
            what: what takes them, as the error's text calls it.
            setting: environment variable that sets the limit.
            error: raised where there is no place.
            clock: gives the time in seconds.
        """
        self.limit = limit
        self._what = what
        self._setting = setting
        self._error = error
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._refused_at: OrderedDict[str, float] = OrderedDict()

    @property
    def used(self) -> int:
        """How many places are taken."""
        return self._held.total()

    def check(self, caller: str) -> None:
        """Raise the error if there is no place for the caller, which then counts as waiting; take none."""
        free, waiting = self.limit - self.used, self._waiting(caller)
        if free > len(waiting) or (free > 0 and self._held[caller] < self._part(caller, waiting)):
            return
        if not self._held[caller]:
            self._refused_at[caller] = self._clock()
            self._refused_at.move_to_end(caller)
            if len(self._refused_at) > MAX_REMEMBERED:
                self._refused_at.popitem(last=False)
        kept = f", {free} of which others wait for" if free > 0 else ""
        used = f"{self.used} in use{kept}, 1 more requested"
        raise self._error(f"{self._what}: {used}; the limit is {self.limit} ({self._setting})")

    def reserve(self, caller: str) -> None:
        """Take a place.

        Raises:
            TandemError: There is none for this caller.
        """
        self.check(caller)
        self._held[caller] += 1
        self._refused_at.pop(caller, None)

    def release(self, caller: str) -> None:
        """Give a place back."""
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]

    def greediest(self, caller: str) -> str | None:
        """Return who holds the most places, if that is more than its part now that ``caller`` wants one too."""
        if not self._held:
            return None
        holder, count = self._held.most_common(1)[0]
        return holder if holder != caller and count > self._part(caller, self._waiting(caller)) else None

    def _waiting(self, caller: str) -> set[str]:
        """Return the others that were refused lately and hold no place."""
        since = self._clock() - WAITING_S
        while self._refused_at and next(iter(self._refused_at.values())) < since:
            self._refused_at.popitem(last=False)
        return set(self._refused_at) - {caller}

    def _part(self, caller: str, waiting: set[str]) -> int:
        return max(1, self.limit // len({caller, *self._held, *waiting}))
