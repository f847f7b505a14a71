"""A pool of worker processes that decode photos and find faces.

Processes, not threads: a quarter of a photo's work holds Python's interpreter lock, as all of the gateway's does,
so threads would leave cores idle. And a decoder that a photo makes crash takes no other photo with it.
"""

import asyncio
import logging
from collections import Counter, deque
from typing import TypeVar

from service.budget import Budget
from service.workers.process import TaskNotStarted, WorkerProcess
from service.workers.protocol import ParseReply, Task

Result = TypeVar("Result")

RESTART_PAUSE_S = 1.0
"""Pause between attempts to start a worker."""

logger = logging.getLogger("tandem.photos")


class WorkerPool:
    """A fixed number of workers; those that end are replaced. Use it within one event loop."""

    def __init__(self, count: int, *, memory: Budget, task_timeout_s: float) -> None:
        """Create the pool; nothing runs before ``start``.

        Args:
            count: Number of workers.
            memory: Budget that workers reserve memory for pixels from, in bytes.
            task_timeout_s: A worker that spends longer on a task is killed: nobody waits for that photo.
        """
        self.count = count
        self._workers = [WorkerProcess(memory, self._on_end) for _ in range(count)]
        self._task_timeout_s = task_timeout_s
        self._assigned: Counter[WorkerProcess] = Counter()
        self._idle: list[WorkerProcess] = []
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._restarts: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raises:
            WorkerCrashed: A worker could not be started.
        """
        outcomes = await asyncio.gather(*(worker.start() for worker in self._workers), return_exceptions=True)
        if failures := [each for each in outcomes if isinstance(each, BaseException)]:
            await self.close()
            raise failures[0]
        self._idle += self._workers

    def pids(self) -> list[int | None]:
        """Return the process id of each worker; None for one that has ended and is not replaced yet."""
        return [worker.pid for worker in self._workers]

    async def acquire(self, *, first: bool = False) -> WorkerProcess:
        """Wait for a worker that is idle, or will be next while many wait; first come, first served.

        ``run`` releases it.

        Args:
            first: Whether to go to the front of the queue.
        """
        turn: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(turn)
        self._assign()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._release(turn.result())
            raise

    async def run(self, worker: WorkerProcess, task: Task, photo: bytes, parse: ParseReply[Result]) -> Result:
        """Run a task, see ``WorkerProcess.run``; another worker takes it if this one ends before starting it."""
        while True:
            try:
                return await worker.run(task, photo, parse, self._task_timeout_s)
            except TaskNotStarted:
                pass
            finally:
                self._release(worker)
            worker = await self.acquire(first=True)

    def _release(self, worker: WorkerProcess) -> None:
        self._assigned[worker] -= 1
        if not self._assigned[worker]:
            if worker.alive:
                self._idle.append(worker)
            else:
                self._replace(worker)
        self._assign()

    def _assign(self) -> None:
        while self._waiting:
            if self._waiting[0].done():  # its waiter was canceled
                self._waiting.popleft()
                continue
            worker = self._choose()
            if worker is None:
                return
            self._assigned[worker] += 1
            self._waiting.popleft().set_result(worker)

    def _choose(self) -> WorkerProcess | None:
        # The worker that was busy last is next, because what it needs is in the processor's caches.
        if self._idle:
            return self._idle.pop()
        # Hand a busy worker its next photo in advance, so that it need not wait for the gateway, which is busy
        # then. Do so only while more photos wait than there are workers; otherwise a photo could wait behind a
        # slow one while a worker is idle.
        if len(self._waiting) <= self.count:
            return None
        return next((worker for worker in self._workers if worker.alive and self._assigned[worker] == 1), None)

    def _on_end(self, worker: WorkerProcess) -> None:
        if worker in self._idle:  # otherwise the task that it was assigned finds out
            self._idle.remove(worker)
            self._replace(worker)

    def _replace(self, worker: WorkerProcess) -> None:
        task = asyncio.create_task(self._restart(worker))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, worker: WorkerProcess) -> None:
        while True:
            try:
                await worker.stop()
                await worker.start()
            except Exception as error:  # no memory or no threads: there may be some soon
                logger.error("a worker process could not be started: %s", error)
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                logger.warning("a worker process had ended and was replaced")
                self._idle.append(worker)
                self._assign()
                return

    async def close(self) -> None:
        """Stop all workers."""
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
