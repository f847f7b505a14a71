"""A circuit breaker: while the server behind it fails, calls are refused at once instead of waiting for it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import ContractUnreadable, DeadlineExceeded, ModelChanged, Overloaded, TritonUnavailable

FAILURES = 5
"""So many in a row open it."""

OPEN_S = 1.0
"""So long it refuses everything; then one call at a time tries."""

MIN_TIMEOUT_S = 1.0
"""A call that was given up sooner says nothing of the server: little was left of the caller's time."""


@dataclass
class CircuitBreaker:
    """Closed, it lets calls pass. Open, it refuses them. Half-open, one passes, and its end decides.

    To be used inside one event loop. ``clock`` gives seconds.
    """

    clock: Callable[[], float] = time.monotonic
    answered_at: float = -float("inf")
    """When the server last answered, be it with a refusal."""
    _failures: int = 0
    _opened_at: float = 0.0
    _trial: bool = False
    _generation: int = 0

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for the one that tries."""
        return self._failures >= FAILURES

    def reset(self) -> None:
        """Forget what was: the server is another one. Calls to the former are not counted any more."""
        self._failures, self._trial = 0, False
        self._generation += 1

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call, to be refused here or judged by how it ends.

        Raises:
            TritonUnavailable: the circuit is open.
        """
        if self.open and (self._trial or self.clock() - self._opened_at < OPEN_S):
            raise TritonUnavailable(
                f"Triton failed {self._failures} times in a row; it is tried again within {OPEN_S:g} s"
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
        """Around a call that is made whether the circuit is open or not, such as a probe: it closes it, too."""
        began, generation = self.clock(), self._generation
        fails: bool | None = None
        try:
            yield
            fails = False
        except (Overloaded, ModelChanged, ContractUnreadable):
            fails = False  # Triton itself works
            raise
        except TritonUnavailable:
            fails = True
            raise
        except (DeadlineExceeded, asyncio.CancelledError):
            # The deadline may come as a cancellation: whoever waits for us has the same one.
            if self.clock() - began >= MIN_TIMEOUT_S:
                fails = True
            raise
        finally:
            if fails is not None and generation == self._generation:
                self._judge(fails=fails)

    def _judge(self, *, fails: bool) -> None:
        if not fails:
            self._failures, self.answered_at = 0, self.clock()
            return
        self._failures += 1
        if self.open:
            self._opened_at = self.clock()
