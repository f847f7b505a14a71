"""A circuit breaker: while a server fails, calls to it are refused at once instead of waiting for it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import ContractUnreadable, DeadlineExceeded, ModelChanged, Overloaded, TritonUnavailable

MAX_FAILURES = 5
"""Failures in a row that open the circuit."""

OPEN_S = 1.0
"""How long an open circuit refuses every call before it lets one at a time try again."""

MIN_TIMEOUT_S = 1.0
"""A call that was given up sooner does not count as a failure: its caller had little time left."""


@dataclass
class CircuitBreaker:
    """Passes calls while closed and refuses them while open; half-open, one call passes and its outcome decides.

    Use it within one event loop.

    Attributes:
        clock: Returns seconds; monotonic.
        answered_at: When the server last answered, if only with a refusal, in seconds of ``clock``.
    """

    clock: Callable[[], float] = time.monotonic
    answered_at: float = -float("inf")
    _failures: int = 0
    _opened_at: float = 0.0
    _trial: bool = False
    _generation: int = 0

    @property
    def open(self) -> bool:
        """Whether calls are refused, except for one trial at a time."""
        return self._failures >= MAX_FAILURES

    def reset(self) -> None:
        """Start afresh for another server; the outcomes of calls to the former one no longer count."""
        self._failures, self._trial = 0, False
        self._generation += 1

    @contextmanager
    def call(self) -> Iterator[None]:
        """Refuse the enclosed call, or learn from its outcome.

        Raises:
            TritonUnavailable: The circuit is open.
        """
        if self.open and (self._trial or self.clock() - self._opened_at < OPEN_S):
            raise TritonUnavailable(
                f"Triton failed {self._failures} times in a row; the next try is within {OPEN_S:g} s"
            )
        trial, generation = self.open, self._generation
        self._trial = self._trial or trial
        try:
            with self.watch():
                yield
        finally:
            if trial and generation == self._generation:
                self._trial = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Learn from the outcome of a call that is made even while the circuit is open, such as a probe."""
        began, generation = self.clock(), self._generation
        failed: bool | None = None
        try:
            yield
            failed = False
        except (Overloaded, ModelChanged, ContractUnreadable):
            failed = False  # Triton itself works
            raise
        except TritonUnavailable:
            failed = True
            raise
        except (DeadlineExceeded, asyncio.CancelledError):
            # The deadline may arrive as a cancellation, because the caller that awaits us has the same one.
            if self.clock() - began >= MIN_TIMEOUT_S:
                failed = True
            raise
        finally:
            if failed is not None and generation == self._generation:
                self._record(failed=failed)

    def _record(self, *, failed: bool) -> None:
        if not failed:
            self._failures, self.answered_at = 0, self.clock()
            return
        self._failures += 1
        if self.open:
            self._opened_at = self.clock()
