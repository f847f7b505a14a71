"""The threads that decode photos and find faces, and the line before them: bounded in length and in time."""

import asyncio
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from service.errors import Overloaded
from service.telemetry import Telemetry

Result = TypeVar("Result")

NICENESS = 5
"""How far the threads stand back where cores are scarce (see ``nice(2)``): behind the event loop, so that a
refusal comes at once under any load, and behind a local Triton, so that photos end before others begin."""

NEWEST_SHARE = 0.1
"""Weight of the newest photo in the mean time that a photo takes."""


class PhotoThreads:
    """A fixed number of threads for what keeps a core busy, and a line of bounded length before them."""

    def __init__(self, workers: int, max_waiting: int, telemetry: Telemetry) -> None:
        """Start the line empty.

        Args:
            workers: threads.
            max_waiting: photos that may wait for one.
            telemetry: is told how many do.
        """
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="photo", initializer=_stand_back)
        self._workers = workers
        self._max_waiting = max_waiting
        self._inside = 0
        self._unanswered = 0
        self._seconds: float | None = None
        self._idle: deque[asyncio.Future[None]] = deque()
        self._telemetry = telemetry

    def crowded(self) -> bool:
        """Whether photos wait for a thread."""
        return self._inside > self._workers

    def check_room(self, left_s: float = math.inf) -> None:
        """Refuse before anything is read of a photo that could not be worked on, or not in time.

        Raises:
            Overloaded: ``max_waiting`` photos are waiting already, or it is expected to take longer than the
                ``left_s`` seconds that are left of its time.
        """
        self._check_length()
        expected_s = self.expected_s()
        # A photo for each thread is always let in: what it takes is the only way to learn that times are better.
        if self._unanswered >= self._workers and expected_s > left_s:
            raise Overloaded(
                f"with {self._unanswered} photos before it, a photo is expected to take {expected_s:.1f} s; "
                f"it has {left_s:.3g} s (TANDEM_REQUEST_TIMEOUT_S)"
            )

    def _check_length(self) -> None:
        if self._inside >= self._workers + self._max_waiting:
            raise Overloaded(
                f"{self._workers} photos are worked on and {self._max_waiting} wait (TANDEM_MAX_WAITING)"
            )

    def expected_s(self) -> float:
        """Seconds that a photo is expected to take if it comes now; 0 while nothing is known.

        By Little's law: those before it and itself, times what each of the latest added to the wait of those
        behind it. That counts the wait for Triton too.
        """
        turns = max(1.0, (self._unanswered + 1) / self._workers)
        return (self._seconds or 0.0) * turns

    @contextmanager
    def photo(self) -> Iterator[None]:
        """Around all that is done for one photo, so that it is known how long photos take."""
        self._unanswered += 1
        turns = max(1.0, self._unanswered / self._workers)
        started = time.monotonic()
        try:
            yield
        finally:
            self._unanswered -= 1
            self._learn((time.monotonic() - started) / turns)

    def _learn(self, seconds: float) -> None:
        known = seconds if self._seconds is None else self._seconds
        self._seconds = known + (seconds - known) * NEWEST_SHARE

    async def idle(self) -> None:
        """Wait until a thread has nothing to do, first come, first served: for work that gives way."""
        while self._inside >= self._workers:
            turn = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._idle:
                    self._idle.remove(turn)
                elif not turn.cancelled():
                    self._wake()  # the turn had come; it is the next one's
                raise

    async def run(self, step: Callable[[], Result]) -> Result:
        """Call ``step`` in a thread.

        A caller who gives up leaves the line; a step that runs already is finished, and keeps its thread
        till then.

        Raises:
            Overloaded: ``max_waiting`` photos are waiting already.
        """
        self._check_length()
        loop = asyncio.get_running_loop()
        self._count(1)
        future = self._pool.submit(step)

        def leave(_: Future[Result]) -> None:
            loop.call_soon_threadsafe(self._count, -1)

        future.add_done_callback(leave)
        return await asyncio.wrap_future(future)

    def _count(self, change: int) -> None:
        self._inside += change
        self._telemetry.waiting.set(max(0, self._inside - self._workers))
        if change < 0:
            self._wake()

    def _wake(self) -> None:
        while self._idle and self._inside < self._workers:
            turn = self._idle.popleft()
            if not turn.done():  # else its waiter was cancelled and has not run since
                turn.set_result(None)
                return

    async def close(self) -> None:
        """Let running steps finish and drop those in line."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)


def _stand_back() -> None:
    """On Linux a thread has a niceness of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
