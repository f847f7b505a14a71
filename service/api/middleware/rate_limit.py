"""How much one caller may ask for: photos in a time, requests at a time, a fair part where room is scarce."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from service.budget import Budget
from service.errors import TooManyRequests

MAX_CALLERS = 10_000
"""Callers remembered; of more, those heard of longest ago are forgotten, with what they had used."""

SCARCE_S = 1.0
"""For so long after a request was refused for want of room, nobody gets more than a fair share of it."""


@dataclass
class _Caller:
    tokens: float
    at: float
    requests: Budget


@dataclass
class _Room:
    inside: int = 0
    most: int = 0
    scarce_until: float = -math.inf


@dataclass(frozen=True)
class RateLimiter:
    """A token bucket and a count for each caller, and fair shares for all. To be used inside one event loop.

    ``rate`` photos in ``window_s`` seconds, all at once if a caller likes; ``concurrent`` requests at a time; None
    is no limit. ``clock`` gives seconds.

    Without any limit one caller could fill the service's line, and others would find it full for as long as that
    caller likes. So whenever room is ``scarce``, each of those heard of lately may have an equal part of the
    requests that were being answered then.
    """

    rate: int | None
    window_s: float
    concurrent: int | None
    clock: Callable[[], float] = time.monotonic
    _callers: OrderedDict[str, _Caller] = field(default_factory=OrderedDict)
    _room: _Room = field(default_factory=_Room)

    def enter(self, name: str) -> None:
        """Count a request; ``leave`` when it is done.

        Raises:
            TooManyRequests: it would be over a limit; nothing is counted.
        """
        caller = self._caller(name)
        caller.requests.check()
        self._share(caller)
        self.take(name)
        caller.requests.reserve()
        self._room.inside += 1

    def scarce(self) -> None:
        """A request was refused for want of room: what is being answered now is all that there is room for."""
        if self.clock() >= self._room.scarce_until:
            self._room.most = self._room.inside
        self._room.scarce_until = self.clock() + SCARCE_S

    def _share(self, caller: _Caller) -> None:
        now = self.clock()
        if now >= self._room.scarce_until or not caller.requests.used:
            return
        callers = 0
        for other in reversed(self._callers.values()):  # those heard of last come first
            if now - other.at > SCARCE_S:
                break
            callers += 1
        if caller.requests.used * callers >= self._room.most and callers > 1:
            raise TooManyRequests(
                f"{caller.requests.used} of your requests are in progress, which is your share while {callers} "
                f"callers share room for {self._room.most}",
                retry_after_s=1,
            )

    def take(self, name: str) -> None:
        """Count one photo of a request that was let in, as a frame of a stream is.

        Raises:
            TooManyRequests: it would be over the rate; it is not counted.
        """
        if self.rate is None:
            return
        caller = self._caller(name)
        if caller.tokens < 1:
            wait_s = (1 - caller.tokens) * self.window_s / self.rate
            raise TooManyRequests(
                f"you have used your {self.rate} photos in {self.window_s:g} s (TANDEM_RATE_LIMIT)",
                retry_after_s=math.ceil(wait_s),
            )
        caller.tokens -= 1

    def spend(self, name: str, photos: int) -> None:
        """Count further photos of a request that was let in; it may go into debt, the next one then waits."""
        if self.rate is not None:
            self._caller(name).tokens -= photos

    def leave(self, name: str) -> None:
        """A request is done."""
        self._caller(name).requests.release()
        self._room.inside -= 1

    def headers(self, name: str) -> dict[str, str]:
        """RateLimit and RateLimit-Policy, after draft-ietf-httpapi-ratelimit-headers-10."""
        if self.rate is None and self.concurrent is None:
            return {}
        policies, left = [], []
        caller = self._caller(name)
        if self.rate is not None:
            missing_s = (self.rate - caller.tokens) * self.window_s / self.rate
            policies.append(f'"photos";q={self.rate};w={math.ceil(self.window_s)}')
            left.append(f'"photos";r={max(0, math.floor(caller.tokens))};t={math.ceil(missing_s)}')
        if self.concurrent is not None:
            policies.append(f'"concurrent";q={self.concurrent};qu="concurrent-requests"')
            left.append(f'"concurrent";r={max(0, self.concurrent - caller.requests.used)}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)}

    def _caller(self, name: str) -> _Caller:
        now = self.clock()
        rate = self.rate or 0
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = _Caller(float(rate), now, self._concurrency_limit())
        self._callers.move_to_end(name)
        caller.tokens = min(float(rate), caller.tokens + (now - caller.at) * rate / self.window_s)
        caller.at = now
        if len(self._callers) > MAX_CALLERS:
            oldest = next(iter(self._callers))
            if not self._callers[oldest].requests.used:
                del self._callers[oldest]
            else:
                self._callers.move_to_end(oldest)  # it is here still
        return caller

    def _concurrency_limit(self) -> Budget:
        return Budget(
            math.inf if self.concurrent is None else self.concurrent,
            what="your requests",
            setting="TANDEM_CONCURRENT_LIMIT",
            error=TooManyRequests,
        )
