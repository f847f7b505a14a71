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
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from service.errors import PhotoProcessEnded
from service.memory import DecodingMemory
from service.photos.messages import ANSWER, BROKEN, GRANTED, REFUSED, ROOM, Step, order, read_answer

Result = TypeVar("Result")

START_TIMEOUT_S = 60.0
"""At most so long a process may take to load what it needs; a second, on an idle machine."""

RESTART_PAUSE_S = 1.0
"""After a process that could not be started, and before the next try."""

END_TIMEOUT_S = 5.0
"""At most so long an idle process may take to end by itself."""

LONGEST = 1024 * 1024 * 1024
"""Bytes of an answer; a picture in it is far smaller."""

CHUNK = 1024 * 1024

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
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=CHUNK)
        with theirs:
            self._process = _spawn(theirs.fileno())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._hear()
        except (TimeoutError, OSError, EOFError, ValueError):
            self._kill()
            raise await self._ended() from None

    @property
    def alive(self) -> bool:
        """Whether it can be given a photo."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def call(self, step: Step[Result], photo: bytes, patience_s: float) -> Result:
        """Let it do ``step`` with a photo, and wait for that.

        Raises:
            TandemError: what ``step`` raised.
            PhotoProcessEnded: it ended meanwhile, or was ended since it took longer than ``patience_s`` or was out
                of its senses.
            RuntimeError: ``step`` raised anything else.
        """
        try:
            async with asyncio.timeout(patience_s), AsyncExitStack() as held:
                await self._say(*order(step, photo))
                word, value = await self._hear()
                while word == ROOM:
                    await held.enter_async_context(self._memory.room(value))
                    await self._say(GRANTED)
                    word, value = await self._hear()
        except TimeoutError:
            self._kill()
            raise PhotoProcessEnded(f"it was ended after {patience_s:g} s with one photo") from None
        except ValueError as error:
            self._kill()
            raise PhotoProcessEnded(str(error)) from error
        except (OSError, EOFError):
            raise await self._ended() from None
        if word == REFUSED:
            raise value
        if word == BROKEN:
            raise RuntimeError(value)
        return value  # type: ignore[no-any-return]

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

    async def _ended(self) -> PhotoProcessEnded:
        await self.stop()
        status = self._process.returncode if self._process else None
        return PhotoProcessEnded(f"it ended with status {status}")

    async def _say(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
        await self._writer.drain()

    async def _hear(self) -> tuple[str, Any]:
        (length,) = ANSWER.unpack(await self._reader.readexactly(ANSWER.size))
        if length > LONGEST:
            raise ValueError(f"a photo process announces {length:,} bytes; the limit is {LONGEST:,}")
        return read_answer(await self._reader.readexactly(length))


def _spawn(descriptor: int) -> "subprocess.Popen[bytes]":
    package = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", WORKER, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env={**os.environ, "PYTHONPATH": path},
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
        # The one that worked last works next: what it needs is in the processor's caches.
        self._free: asyncio.LifoQueue[PhotoProcess] = asyncio.LifoQueue()
        self._restarts: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all; returns when they are ready.

        Raises:
            PhotoProcessEnded: one could not be started.
        """
        try:
            await asyncio.gather(*(process.start() for process in self._all))
        except BaseException:
            await self.close()
            raise
        for process in self._all:
            self._free.put_nowait(process)

    async def take(self) -> PhotoProcess:
        """One that is free, first come, first served; ``call`` gives it back."""
        while True:
            process = await self._free.get()
            if process.alive:
                return process
            self._replace(process)  # it ended while it had nothing to do

    async def call(self, process: PhotoProcess, step: Step[Result], photo: bytes) -> Result:
        """As ``PhotoProcess.call``; a process that has ended is replaced."""
        try:
            return await process.call(step, photo, self._patience_s)
        finally:
            if process.alive:
                self._free.put_nowait(process)
            else:
                self._replace(process)

    def _replace(self, process: PhotoProcess) -> None:
        task = asyncio.create_task(self._restart(process))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _restart(self, process: PhotoProcess) -> None:
        while True:
            await process.stop()
            try:
                await process.start()
            except (PhotoProcessEnded, OSError) as error:
                logger.error("a photo process cannot be started: %s", error)
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                logger.warning("a photo process had ended and was replaced")
                self._free.put_nowait(process)
                return

    async def close(self) -> None:
        """End all."""
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self._all))
