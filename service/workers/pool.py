"""The processes that decode photos and find faces.

Processes, not threads: a quarter of a photo's work holds Python's interpreter, as all of the gateway's does, so
that threads left cores idle. And a decoder that a photo makes crash takes no other photo with it.
"""

import asyncio
import logging
from collections import Counter, deque
from typing import TypeVar

from service.budget import Budget
from service.workers.process import NotBegun, WorkerProcess
from service.workers.protocol import Reader, Step

Result = TypeVar("Result")

RESTART_PAUSE_S = 1.0
"""After a process that could not be started, and before the next try."""

logger = logging.getLogger("tandem.photos")


class WorkerPool:
    """A fixed number of them. To be used inside one event loop."""

    def __init__(self, count: int, *, memory: Budget, patience_s: float) -> None:
        """Nothing runs before ``start``.

        Args:
            count: processes.
            memory: grants room for pixels.
            patience_s: a process that is longer with one photo is ended: nobody waits for that photo any more.
        """
        self.count = count
        self._all = [WorkerProcess(memory, self._ended) for _ in range(count)]
        self._patience_s = patience_s
        self._given: Counter[WorkerProcess] = Counter()
        self._idle: list[WorkerProcess] = []
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._restarts: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all; returns when they are ready.

        Raises:
            WorkerCrashed: one could not be started.
        """
        outcomes = await asyncio.gather(*(process.start() for process in self._all), return_exceptions=True)
        if failures := [each for each in outcomes if isinstance(each, BaseException)]:
            await self.close()
            raise failures[0]
        self._idle += self._all

    def ids(self) -> list[int | None]:
        """The system's number for each; None for one that has ended and is not back yet."""
        return [process.id for process in self._all]

    async def take(self, *, first: bool = False) -> WorkerProcess:
        """One that is free, or will be next while many wait; first come, first served, but for who is to be first.

        ``call`` gives it back.
        """
        turn: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(turn)
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._give_back(turn.result())
            raise

    async def call(self, process: WorkerProcess, step: Step, photo: bytes, read: Reader[Result]) -> Result:
        """As ``WorkerProcess.call``; a process that ends is replaced; what it had not begun goes to another."""
        while True:
            try:
                return await process.call(step, photo, read, self._patience_s)
            except NotBegun:
                pass
            finally:
                self._give_back(process)
            process = await self.take(first=True)

    def _give_back(self, process: WorkerProcess) -> None:
        self._given[process] -= 1
        if not self._given[process]:
            if process.alive:
                self._idle.append(process)
            else:
                self._replace(process)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            if self._waiting[0].done():  # its waiter was cancelled
                self._waiting.popleft()
                continue
            process = self._next()
            if process is None:
                return
            self._given[process] += 1
            self._waiting.popleft().set_result(process)

    def _next(self) -> WorkerProcess | None:
        # The one that worked last works next: what it needs is in the processor's caches.
        if self._idle:
            return self._idle.pop()
        # With the next photo at hand a process need not wait for the gateway, which has much to do just then. Only
        # while there is another for each process, so that none is idle while a photo waits behind a slow one.
        if len(self._waiting) <= self.count:
            return None
        return next((process for process in self._all if process.alive and self._given[process] == 1), None)

    def _ended(self, process: WorkerProcess) -> None:
        if process in self._idle:  # else who called it finds out
            self._idle.remove(process)
            self._replace(process)

    def _replace(self, process: WorkerProcess) -> None:
        task = asyncio.create_task(self._restart(process))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, process: WorkerProcess) -> None:
        while True:
            try:
                await process.stop()
                await process.start()
            except Exception as error:  # no memory, no threads: there may be some soon
                logger.error("a photo process cannot be started: %s", error)
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                logger.warning("a photo process had ended and was replaced")
                self._idle.append(process)
                self._hand_out()
                return

    async def close(self) -> None:
        """End all."""
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self._all))
