"""The line of photos that wait for a process: bounded in length and in time."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from service.errors import NoWorkerAvailable, Overloaded
from service.observability.metrics import Metrics
from service.workers.pool import WorkerPool
from service.workers.process import WorkerProcess
from service.workers.protocol import Reader, Step

Result = TypeVar("Result")

NEWEST_SHARE = 0.1
"""Weight of the newest photo in the mean time that a photo takes."""


class WorkQueue:
    """A line of bounded length before the processes that do what keeps a core busy."""

    def __init__(self, processes: WorkerPool, max_waiting: int, metrics: Metrics) -> None:
        """Start the line empty.

        Args:
            processes: what photos wait for.
            max_waiting: photos that may wait.
            metrics: is told how many do.
        """
        self._processes = processes
        self._workers = processes.count
        self._max_waiting = max_waiting
        self._inside = 0
        self._unanswered = 0
        self._seconds: float | None = None
        self._idle: deque[asyncio.Future[None]] = deque()
        self._at_work: set[asyncio.Task[Any]] = set()
        self._metrics = metrics

    def check_processes(self) -> None:
        """Tell that no photo can be worked on.

        Raises:
            NoPhotoProcess: all processes have ended, and none is back yet.
        """
        if not any(self._processes.ids()):
            raise NoWorkerAvailable(f"none of {self._workers} processes runs; the log has why")

    def saturated(self) -> bool:
        """Whether photos wait for a process."""
        return self._inside > self._workers

    def check_room(self, deadline: float = math.inf) -> None:
        """Refuse before anything is read of a photo that could not be worked on, or not in time.

        Raises:
            Overloaded: ``max_waiting`` photos are waiting already, or a photo is expected to be done after
                ``deadline``, in seconds of ``time.monotonic``.
        """
        self._check_length()
        expected_s = self.expected_s()
        # A photo for each process is always let in: what it takes is the only way to learn that times are better.
        if self._unanswered >= self._workers and time.monotonic() + expected_s > deadline:
            raise Overloaded(
                f"with {self._unanswered} photos before it, a photo is expected to take {expected_s:.1f} s; "
                f"it has {deadline - time.monotonic():.3g} s (TANDEM_REQUEST_TIMEOUT_S)"
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
        """Wait until a process has nothing to do, first come, first served: for work that gives way."""
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

    async def run(self, step: Step, photo: bytes, read: Reader[Result]) -> Result:
        """Let a process do ``step`` with a photo; ``read`` makes the result of its reply.

        A caller who gives up leaves the line; a step that runs already is finished, and keeps its process till
        then.

        Raises:
            Overloaded: ``max_waiting`` photos are waiting already.
            WorkerCrashed: the process did not survive it.
        """
        self._check_length()
        self._count(1)
        try:
            process = await self._processes.take()
        except BaseException:
            self._count(-1)
            raise
        work = asyncio.create_task(self._work(process, step, photo, read))
        self._at_work.add(work)
        work.add_done_callback(self._done)
        return await asyncio.shield(work)

    async def _work(self, process: WorkerProcess, step: Step, photo: bytes, read: Reader[Result]) -> Result:
        try:
            return await self._processes.call(process, step, photo, read)
        finally:
            self._count(-1)

    def _done(self, work: asyncio.Task[Any]) -> None:
        self._at_work.discard(work)
        if not work.cancelled():
            work.exception()  # whose caller has left is of no interest

    def _count(self, change: int) -> None:
        self._inside += change
        self._metrics.waiting.set(max(0, self._inside - self._workers))
        if change < 0:
            self._wake()

    def _wake(self) -> None:
        while self._idle and self._inside < self._workers:
            turn = self._idle.popleft()
            if not turn.done():  # else its waiter was cancelled and has not run since
                turn.set_result(None)
                return

    async def finish(self) -> None:
        """Wait until all that runs is done."""
        await asyncio.gather(*self._at_work, return_exceptions=True)
