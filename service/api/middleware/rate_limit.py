"""Limits for each caller: photos in a window, requests at a time, and a fair share while there is an overload."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.budget import Budget
from service.errors import TooManyRequests

MAX_CALLERS = 10_000
"""Callers that are remembered. Beyond that, those seen longest ago are forgotten, with what they have used."""

OVERLOAD_S = 1.0
"""How long after a photo was refused the service counts as overloaded."""


@dataclass(slots=True)
class _Caller:
    tokens: float
    seen_at: float
    requests: Budget


class RateLimiter:
    """A token bucket and a number of requests for each caller, and fair shares among all. For one event loop.

    Without a configured limit, one caller could keep the queue full for all others. So while the service is
    overloaded, each caller seen lately may have an equal share of the requests that were in progress when the
    overload began.
    """

    def __init__(
        self,
        *,
        rate: int | None,
        window_s: float,
        concurrent: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without callers.

        Args:
            rate: Photos in a window, all at once if a caller likes; None is no limit.
            window_s: Seconds of the window.
            concurrent: Requests at a time; None is no limit.
            clock: Gives the time in seconds.
        """
        self._rate = rate
        self._window_s = window_s
        self._concurrent = concurrent
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._in_progress = 0
        self._capacity = 0
        self._overloaded_until = -math.inf

    def reserve(self, name: str) -> None:
        """Count a request of the caller as in progress, until ``release``.

        Raises:
            TooManyRequests: It would exceed a limit; nothing is counted.
        """
        caller = self._caller(name)
        caller.requests.check()
        self._check_share(caller)
        self.take_photo(name)
        caller.requests.reserve()
        self._in_progress += 1

    def release(self, name: str) -> None:
        """Count a request of the caller as done."""
        self._caller(name).requests.release()
        self._in_progress -= 1

    def take_photo(self, name: str) -> None:
        """Count one photo, or one frame of a stream.

        Raises:
            TooManyRequests: It would exceed the rate; it is not counted.
        """
        if self._rate is None:
            return
        caller = self._caller(name)
        if caller.tokens < 1:
            wait_s = (1 - caller.tokens) * self._window_s / self._rate
            raise TooManyRequests(
                f"you have used your {self._rate} photos in {self._window_s:g} s (TANDEM_RATE_LIMIT)",
                retry_after_s=math.ceil(wait_s),
            )
        caller.tokens -= 1

    def charge_photos(self, name: str, photos: int) -> None:
        """Count further photos of a request in progress. They may exceed the rate; later requests then wait."""
        if self._rate is not None:
            self._caller(name).tokens -= photos

    def report_overload(self) -> None:
        """Note that a photo was refused: the service can bear no more than the requests in progress now."""
        now = self._clock()
        if now >= self._overloaded_until:
            self._capacity = self._in_progress
        self._overloaded_until = now + OVERLOAD_S

    def _check_share(self, caller: _Caller) -> None:
        now = self._clock()
        if now >= self._overloaded_until or not caller.requests.used:
            return
        callers = 0
        for other in reversed(self._callers.values()):  # those seen last come first
            if now - other.seen_at > OVERLOAD_S:
                break
            callers += 1
        if callers > 1 and caller.requests.used * callers >= self._capacity:
            raise TooManyRequests(
                f"{caller.requests.used} of your requests are in progress, which is your share while {callers} "
                f"callers share the {self._capacity} that the service can bear"
            )

    def headers(self, name: str) -> dict[str, str]:
        """Return RateLimit and RateLimit-Policy, after draft-ietf-httpapi-ratelimit-headers-10."""
        if self._rate is None and self._concurrent is None:
            return {}
        policies, left = [], []
        caller = self._caller(name)
        if self._rate is not None:
            missing_s = (self._rate - caller.tokens) * self._window_s / self._rate
            policies.append(f'"photos";q={self._rate};w={math.ceil(self._window_s)}')
            left.append(f'"photos";r={max(0, math.floor(caller.tokens))};t={math.ceil(missing_s)}')
        if self._concurrent is not None:
            policies.append(f'"concurrent";q={self._concurrent};qu="concurrent-requests"')
            left.append(f'"concurrent";r={max(0, self._concurrent - caller.requests.used)}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)}

    def _caller(self, name: str) -> _Caller:
        now = self._clock()
        rate = float(self._rate or 0)
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = _Caller(rate, now, self._new_budget())
        self._callers.move_to_end(name)
        caller.tokens = min(rate, caller.tokens + (now - caller.seen_at) * rate / self._window_s)
        caller.seen_at = now
        if len(self._callers) > MAX_CALLERS:
            oldest = next(iter(self._callers))
            if self._callers[oldest].requests.used:
                self._callers.move_to_end(oldest)
            else:
                del self._callers[oldest]
        return caller

    def _new_budget(self) -> Budget:
        return Budget(
            math.inf if self._concurrent is None else self._concurrent,
            what="your requests",
            setting="TANDEM_CONCURRENT_LIMIT",
            error=TooManyRequests,
        )
