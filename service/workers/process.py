"""A process that decodes photos and finds faces, as the gateway sees it."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from service import errors
from service.budget import Budget
from service.errors import TandemError, WorkerCrashed
from service.workers.protocol import (
    ANSWER,
    BROKEN,
    DONE,
    GRANTED,
    MAX_MESSAGE_BYTES,
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

END_TIMEOUT_S = 5.0
"""At most so long an idle process may take to end by itself."""

REFUSALS = {
    name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, TandemError)
}
"""What a step may raise, by name."""

CHUNK = 1024 * 1024
"""Bytes of an answer that may lie unread before the process has to wait."""

WORKER = "service.workers.main"
"""The module that a process runs."""


class NotBegun(Exception):
    """The process ended before it came to this photo."""


class WorkerProcess:
    """One process, and the socket to it."""

    def __init__(self, memory: Budget, ended: Callable[["WorkerProcess"], None]) -> None:
        """Nothing runs before ``start``.

        Args:
            memory: grants room for pixels.
            ended: is told when the process has ended, whatever it was doing.
        """
        self._memory = memory
        self._ended = ended
        self._turn = asyncio.Lock()  # whose order is worked on
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def start(self) -> None:
        """Start it; returns when it is ready.

        Raises:
            WorkerCrashed: it ended before that, or took too long.
        """
        self._ready = False
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            self._reader = asyncio.StreamReader(limit=CHUNK)
            heard = _Heard(self._reader, partial(self._ended, self))
            transport, _ = await loop.create_unix_connection(lambda: heard, sock=ours)
            self._writer = asyncio.StreamWriter(transport, heard, self._reader, loop)
            try:
                # In the thread of the loop: the kernel kills it when the thread ends that has made it.
                self._process = _spawn(theirs.fileno())
            except BaseException:
                self._writer.close()
                raise
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                word, _, _ = await self._hear()
            if word != READY or self._reader.at_eof():
                raise ValueError(f"a photo process says «{word}» first, or nothing more")
        except (TimeoutError, OSError, EOFError, ValueError):
            self._kill()
            await self.stop()
            raise WorkerCrashed(f"it ended with status {self._process.returncode}") from None
        self._ready = True

    @property
    def alive(self) -> bool:
        """Whether it can be given a photo."""
        return self._ready and not (self._reader.at_eof() or self._writer.is_closing())

    @property
    def id(self) -> int | None:
        """The system's number for it, while it is alive."""
        return self._process.pid if self._process and self.alive else None

    async def call(self, step: Step, photo: bytes, read: Reader[Result], patience_s: float) -> Result:
        """Let it do ``step`` with a photo, and wait for that; ``read`` makes the result of its reply.

        What is called while it works comes next, and lies ready when it has done with the former.

        Whatever goes wrong, but for what the step itself raises, ends it: the next photo must not get this one's
        answer.

        Raises:
            TandemError: what ``step`` raised.
            NotBegun: it ended before this photo's turn.
            WorkerCrashed: it ended meanwhile, or was ended: it took longer than ``patience_s``, the wait for
                room apart, or what it said makes no sense.
            RuntimeError: ``step`` raised anything else.
        """
        if not self.alive:
            raise NotBegun
        try:
            self._say(*order(step, photo))
            async with self._turn:
                if not self.alive:
                    raise NotBegun
                failure, result = await self._listen(read, patience_s)
        except BaseException as error:
            self._kill()
            match error:
                case TimeoutError():
                    raise WorkerCrashed(f"it was ended after {patience_s:g} s with one photo") from None
                case OSError() | EOFError():
                    await self.stop()
                    status = self._process.returncode if self._process else None
                    raise WorkerCrashed(f"it ended with status {status}") from None
                case NotBegun():
                    raise
                case Exception():
                    raise WorkerCrashed(f"what it said makes no sense: {error}") from error
            raise
        if failure:
            raise failure
        return cast(Result, result)

    async def _listen(self, read: Reader[Result], patience_s: float) -> tuple[Exception | None, Result | None]:
        """What the step that is worked on raises, or its result."""
        async with AsyncExitStack() as held:
            async with asyncio.timeout(patience_s):
                word, fields, raw = await self._hear()
            while word == ROOM:
                await held.enter_async_context(self._memory.reserved_in_turn(fields))
                async with asyncio.timeout(patience_s):
                    self._say(GRANTED)
                    word, fields, raw = await self._hear()
        failure = _failure(word, fields)
        return failure, None if failure else read(fields, raw)

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

    def _say(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)

    async def _hear(self) -> tuple[str, Any, bytes]:
        lengths = ANSWER.unpack(await self._reader.readexactly(ANSWER.size))
        if max(lengths) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"a photo process announces {max(lengths):,} bytes; the limit is {MAX_MESSAGE_BYTES:,}"
            )
        word, fields = read_answer(await self._reader.readexactly(lengths[0]))
        return word, fields, await self._reader.readexactly(lengths[1])


class _Heard(asyncio.StreamReaderProtocol):
    """What a process says, and that it will say no more."""

    def __init__(self, reader: asyncio.StreamReader, ended: Callable[[], None]) -> None:
        super().__init__(reader)
        self._ended = ended

    def eof_received(self) -> bool:
        keep_open = super().eof_received()
        self._ended()
        return bool(keep_open)


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
