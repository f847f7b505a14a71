"""The queue of photos that wait for a worker, limited in length and in waiting time."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from service.budget import Budget
from service.errors import NoWorkerAvailable, Overloaded
from service.observability.metrics import Metrics
from service.workers.pool import WorkerPool
from service.workers.process import WorkerProcess
from service.workers.protocol import ParseReply, Task

Result = TypeVar("Result")

NEWEST_SHARE = 0.1
"""Weight of the newest photo in the moving average of the time that a photo takes."""


class WorkQueue:
    """A queue of limited length in front of the workers. Use it within one event loop."""

    def __init__(self, pool: WorkerPool, max_waiting: int, metrics: Metrics) -> None:
        """Create an empty queue.

        Args:
            pool: The workers.
            max_waiting: Photos that may wait for a worker.
            metrics: Where to report how many do.
        """
        self._pool = pool
        self._places = Budget(
            pool.count + max_waiting,
            what=f"places for {pool.count} photos in progress and {max_waiting} waiting",
            setting="TANDEM_MAX_WAITING",
        )
        self._metrics = metrics
        self._unanswered = 0
        self._seconds: float | None = None
        self._idle_waiters: deque[asyncio.Future[None]] = deque()
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def in_flight(self) -> int:
        """Photos that wait for a worker or have one."""
        return self._places.used

    def saturated(self) -> bool:
        """Whether photos wait for a worker."""
        return self.in_flight > self._pool.count

    def check_workers(self) -> None:
        """Check that a worker is running.

        Raises:
            NoWorkerAvailable: All workers have ended, and none is replaced yet.
        """
        if not any(self._pool.pids()):
            raise NoWorkerAvailable(f"none of {self._pool.count} worker processes is available; see the log")

    def check(self, deadline: float = math.inf) -> None:
        """Check that a photo would be worked on, and in time, if it came now.

        Args:
            deadline: When the answer is due, in seconds of ``time.monotonic``.

        Raises:
            Overloaded: ``max_waiting`` photos wait already, or the answer is expected after the deadline.
        """
        self._places.check()
        expected_s = self.expected_s()
        # One photo for each worker is always admitted: only its duration can show that photos have become faster.
        if self._unanswered >= self._pool.count and time.monotonic() + expected_s > deadline:
            raise Overloaded(
                f"a photo is expected to take {expected_s:.1f} s with {self._unanswered} ahead of it; "
                f"{deadline - time.monotonic():.3g} s are left (TANDEM_REQUEST_TIMEOUT_S)"
            )

    @contextmanager
    def admit(self, deadline: float = math.inf) -> Iterator[None]:
        """Check as ``check`` does, then measure how long the enclosed work takes for one photo.

        Raises:
            Overloaded: The photo is not admitted.
        """
        self.check(deadline)
        self._unanswered += 1
        turns = max(1.0, self._unanswered / self._pool.count)
        started = time.monotonic()
        try:
            yield
        finally:
            self._unanswered -= 1
            self._record((time.monotonic() - started) / turns)

    def expected_s(self) -> float:
        """Return the seconds that a photo is expected to take if it comes now; 0 while nothing is known.

        By Little's law: (photos in progress + this one) / workers, at least 1, times the moving average of seconds
        per photo, which includes waiting for Triton.
        """
        turns = max(1.0, (self._unanswered + 1) / self._pool.count)
        return (self._seconds or 0.0) * turns

    def _record(self, seconds: float) -> None:
        known = seconds if self._seconds is None else self._seconds
        self._seconds = known + (seconds - known) * NEWEST_SHARE

    async def wait_for_idle_worker(self) -> None:
        """Wait until fewer photos are in flight than there are workers, first come, first served.

        For work that gives way to other photos. Nothing is reserved.
        """
        while self.in_flight >= self._pool.count:
            turn = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._idle_waiters:
                    self._idle_waiters.remove(turn)
                elif not turn.cancelled():
                    self._wake()  # the turn had come, and passes to the next waiter
                raise

    async def run(self, task: Task, photo: bytes, parse: ParseReply[Result]) -> Result:
        """Let a worker run a task for a photo.

        A caller that is canceled leaves the queue. A task that has started is finished, and keeps its worker until
        then.

        Args:
            task: What to run.
            photo: The encoded image.
            parse: Makes the result of the task's reply.

        Raises:
            Overloaded: ``max_waiting`` photos wait already.
            WorkerCrashed: The worker ended while it ran the task.
            TandemError: The task raised it.
        """
        self._places.reserve()
        self._report()
        try:
            worker = await self._pool.acquire()
        except BaseException:
            self._release()
            raise
        running = asyncio.create_task(self._run(worker, task, photo, parse))
        self._running.add(running)
        running.add_done_callback(self._on_done)
        return await asyncio.shield(running)

    async def _run(self, worker: WorkerProcess, task: Task, photo: bytes, parse: ParseReply[Result]) -> Result:
        try:
            return await self._pool.run(worker, task, photo, parse)
        finally:
            self._release()

    def _on_done(self, running: asyncio.Task[Any]) -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # retrieved, because its caller may have left

    def _release(self) -> None:
        self._places.release()
        self._report()
        self._wake()

    def _report(self) -> None:
        self._metrics.waiting.set(max(0, self.in_flight - self._pool.count))

    def _wake(self) -> None:
        while self._idle_waiters and self.in_flight < self._pool.count:
            turn = self._idle_waiters.popleft()
            if not turn.done():  # otherwise its waiter was canceled and has not run since
                turn.set_result(None)
                return

    async def drain(self) -> None:
        """Wait until all running tasks are done."""
        await asyncio.gather(*self._running, return_exceptions=True)
