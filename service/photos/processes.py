"""The processes that decode photos and find faces.

Processes, not threads: a quarter of a photo's work holds Python's interpreter, as all of the gateway's does, so
that threads left cores idle. And a decoder that a photo makes crash, or never end, takes no other photo with it.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

from service import errors
from service.errors import PhotoProcessEnded, TandemError
from service.memory import DecodingMemory
from service.photos.messages import (
    ANSWER,
    BROKEN,
    DONE,
    GRANTED,
    LONGEST,
    READY,
    REFUSED,
    ROOM,
    Reader,
    Step,
    order,
    read_answer,
)

Result = TypeVar("Result")

START_TIMEOUT_S = 60.0
"""At most so long a process may take to load what it needs; a second, on an idle machine."""

RESTART_PAUSE_S = 1.0
"""After a process that could not be started, and before the next try."""

END_TIMEOUT_S = 5.0
"""At most so long an idle process may take to end by itself."""

REFUSALS = {
    name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, TandemError)
}
"""What a step may raise, by name."""

CHUNK = 1024 * 1024
"""Bytes of an answer that may lie unread before the process has to wait."""

WORKER = "service.photos.worker"
"""The module that a process runs."""

logger = logging.getLogger("tandem.photos")


class PhotoProcess:
    """One process, and the socket to it."""

    def __init__(self, memory: DecodingMemory) -> None:
        """Nothing runs before ``start``; ``memory`` grants room for pixels."""
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def start(self) -> None:
        """Start it; returns when it is ready.

        Raises:
            PhotoProcessEnded: it ended before that, or took too long.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=CHUNK)
            try:
                # In the thread of the loop: the kernel kills it when the thread ends that has made it.
                self._process = _spawn(theirs.fileno())
            except BaseException:
                self._writer.close()
                raise
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                word, _, _ = await self._hear()
            if word != READY:
                raise ValueError(f"a photo process says «{word}» first")
        except (TimeoutError, OSError, EOFError, ValueError):
            self._kill()
            await self.stop()
            raise PhotoProcessEnded(f"it ended with status {self._process.returncode}") from None

    @property
    def alive(self) -> bool:
        """Whether it can be given a photo."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def call(self, step: Step, photo: bytes, read: Reader[Result], patience_s: float) -> Result:
        """Let it do ``step`` with a photo, and wait for that; ``read`` makes the result of its reply.

        Whatever goes wrong, but for what the step itself raises, ends it: the next photo must not get this one's
        answer.

        Raises:
            TandemError: what ``step`` raised.
            PhotoProcessEnded: it ended meanwhile, or was ended: it took longer than ``patience_s``, the wait for
                room apart, or what it said makes no sense.
            RuntimeError: ``step`` raised anything else.
        """
        try:
            async with AsyncExitStack() as held:
                async with asyncio.timeout(patience_s):
                    await self._say(*order(step, photo))
                    word, fields, raw = await self._hear()
                while word == ROOM:
                    await held.enter_async_context(self._memory.room(fields))
                    async with asyncio.timeout(patience_s):
                        await self._say(GRANTED)
                        word, fields, raw = await self._hear()
            failure = _failure(word, fields)
            result = None if failure else read(fields, raw)
        except BaseException as error:
            self._kill()
            match error:
                case TimeoutError():
                    raise PhotoProcessEnded(f"it was ended after {patience_s:g} s with one photo") from None
                case OSError() | EOFError():
                    await self.stop()
                    status = self._process.returncode if self._process else None
                    raise PhotoProcessEnded(f"it ended with status {status}") from None
                case Exception():
                    raise PhotoProcessEnded(f"what it said makes no sense: {error}") from error
            raise
        if failure:
            raise failure
        return cast(Result, result)

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
        self._writer.close()

    async def stop(self) -> None:
        """End it, by force if need be."""
        if self._process is None:
            return
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        try:
            await asyncio.to_thread(self._process.wait, END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def _say(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
        await self._writer.drain()

    async def _hear(self) -> tuple[str, Any, bytes]:
        lengths = ANSWER.unpack(await self._reader.readexactly(ANSWER.size))
        if max(lengths) > LONGEST:
            raise ValueError(f"a photo process announces {max(lengths):,} bytes; the limit is {LONGEST:,}")
        word, fields = read_answer(await self._reader.readexactly(lengths[0]))
        return word, fields, await self._reader.readexactly(lengths[1])


def _failure(word: str, fields: Any) -> Exception | None:
    """What the step raised."""
    if word == REFUSED:
        name, detail = fields
        return REFUSALS[name](str(detail))
    if word == BROKEN:
        return RuntimeError(str(fields))
    if word != DONE:
        raise ValueError(f"a photo process says «{word}» for an answer")
    return None


def _spawn(descriptor: int) -> "subprocess.Popen[bytes]":
    package = str(Path(__file__).parents[2])
    # Neither the current folder comes first, nor what is beside an installed package: both could hide modules.
    start = f"import sys; sys.path.append({package!r}); from {WORKER} import main; main()"
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-c", start, str(descriptor), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        process_group=0,  # Ctrl-C in a terminal is for the gateway
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # there is a process for each core
    )


class PhotoProcesses:
    """A fixed number of them. To be used inside one event loop."""

    def __init__(self, count: int, *, memory: DecodingMemory, patience_s: float) -> None:
        """Nothing runs before ``start``.

        Args:
            count: processes.
            memory: grants room for pixels.
            patience_s: a process that is longer with one photo is ended: nobody waits for that photo any more.
        """
        self.count = count
        self._all = [PhotoProcess(memory) for _ in range(count)]
        self._patience_s = patience_s
        self._free: list[PhotoProcess] = []
        self._waiting: deque[asyncio.Future[PhotoProcess]] = deque()
        self._restarts: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all; returns when they are ready.

        Raises:
            PhotoProcessEnded: one could not be started.
        """
        outcomes = await asyncio.gather(*(process.start() for process in self._all), return_exceptions=True)
        if failures := [each for each in outcomes if isinstance(each, BaseException)]:
            await self.close()
            raise failures[0]
        self._free += self._all

    async def take(self) -> PhotoProcess:
        """One that is free, first come, first served; ``call`` gives it back."""
        # The one that worked last works next: what it needs is in the processor's caches.
        while self._free:
            process = self._free.pop()
            if process.alive:
                return process
            self._replace(process)  # it ended while it had nothing to do
        turn: asyncio.Future[PhotoProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._give(turn.result())
            raise

    def _give(self, process: PhotoProcess) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its waiter was cancelled
                turn.set_result(process)
                return
        self._free.append(process)

    async def call(self, process: PhotoProcess, step: Step, photo: bytes, read: Reader[Result]) -> Result:
        """As ``PhotoProcess.call``; a process that has ended is replaced."""
        try:
            return await process.call(step, photo, read, self._patience_s)
        finally:
            if process.alive:
                self._give(process)
            else:
                self._replace(process)

    def _replace(self, process: PhotoProcess) -> None:
        task = asyncio.create_task(self._restart(process))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, process: PhotoProcess) -> None:
        while True:
            try:
                await process.stop()
                await process.start()
            except Exception as error:  # no memory, no threads: there may be some soon
                logger.error("a photo process cannot be started: %s", error)
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                logger.warning("a photo process had ended and was replaced")
                self._give(process)
                return

    async def close(self) -> None:
        """End all."""
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self._all))
