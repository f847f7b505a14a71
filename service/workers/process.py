"""One worker process, as the gateway sees it."""

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
    CRASH,
    DONE,
    ERROR,
    GRANTED,
    MAX_MESSAGE_BYTES,
    MESSAGE_HEADER,
    READY,
    RESERVE,
    ParseReply,
    Task,
    decode_message,
    encode_task,
)

Result = TypeVar("Result")

START_TIMEOUT_S = 60.0
"""How long a worker may take to load what it needs, which takes a second on an idle machine."""

STOP_TIMEOUT_S = 5.0
"""How long a worker may take to end by itself once its socket is closed."""

ERRORS = {
    name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, TandemError)
}
"""The errors that a task may raise, by name."""

READ_BUFFER_BYTES = 1024 * 1024
"""Bytes of a message that may be unread before the worker has to wait."""

WORKER = "service.workers.main"
"""The module that a worker runs."""


class TaskNotStarted(Exception):
    """The worker ended before it started this task."""


class WorkerProcess:
    """A worker process and the socket to it."""

    def __init__(self, memory: Budget, on_end: Callable[["WorkerProcess"], None]) -> None:
        """Create the worker; nothing runs before ``start``.

        Args:
            memory: Budget that tasks reserve memory for pixels from, in bytes.
            on_end: Called when the process has ended, whatever it was doing.
        """
        self._memory = memory
        self._on_end = on_end
        self._turn = asyncio.Lock()  # held by the task whose messages come next
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            WorkerCrashed: It ended before that, or took too long.
        """
        self._ready = False
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            self._reader = asyncio.StreamReader(limit=READ_BUFFER_BYTES)
            protocol = _Protocol(self._reader, partial(self._on_end, self))
            transport, _ = await loop.create_unix_connection(lambda: protocol, sock=ours)
            self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
            try:
                # In the loop's thread: the kernel kills the process when the thread that created it ends.
                self._process = _spawn(theirs.fileno())
            except BaseException:
                self._writer.close()
                raise
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                kind, _, _ = await self._receive()
            if kind != READY or self._reader.at_eof():
                raise ValueError(f'the first message of a worker is "{kind}", or its last')
        except (TimeoutError, OSError, EOFError, ValueError):
            self._kill()
            await self.stop()
            raise WorkerCrashed(f"the worker ended with status {self._process.returncode}") from None
        self._ready = True

    @property
    def alive(self) -> bool:
        """Whether the worker can be given a task."""
        return self._ready and not (self._reader.at_eof() or self._writer.is_closing())

    @property
    def pid(self) -> int | None:
        """The process id while the worker is alive."""
        return self._process.pid if self._process and self.alive else None

    async def run(self, task: Task, photo: bytes, parse: ParseReply[Result], timeout_s: float) -> Result:
        """Run a task for a photo and return what ``parse`` makes of its reply.

        A task may be sent while another runs; the worker then starts it without waiting for the gateway.

        Any failure other than an exception of the task itself kills the worker, because the next photo must not
        get this one's answer.

        Raises:
            TandemError: The task raised it.
            TaskNotStarted: The worker ended before this task's turn.
            WorkerCrashed: The worker ended meanwhile, or was killed, because it took longer than ``timeout_s``
                (waiting for memory excluded) or sent a malformed message.
            RuntimeError: The task raised any other exception.
        """
        if not self.alive:
            raise TaskNotStarted
        try:
            self._send(*encode_task(task, photo))
            async with self._turn:
                if not self.alive:
                    raise TaskNotStarted
                failure, result = await self._receive_result(parse, timeout_s)
        except BaseException as error:
            self._kill()
            match error:
                case TimeoutError():
                    raise WorkerCrashed(f"the worker was killed after {timeout_s:g} s with one photo") from None
                case OSError() | EOFError():
                    await self.stop()
                    status = self._process.returncode if self._process else None
                    raise WorkerCrashed(f"the worker ended with status {status}") from None
                case TaskNotStarted():
                    raise
                case Exception():
                    raise WorkerCrashed(f"the worker sent a malformed message: {error}") from error
            raise
        if failure:
            raise failure
        return cast(Result, result)

    async def _receive_result(
        self, parse: ParseReply[Result], timeout_s: float
    ) -> tuple[Exception | None, Result | None]:
        """Return the exception of the task in progress, or its result."""
        async with AsyncExitStack() as reservations:
            async with asyncio.timeout(timeout_s):
                kind, fields, raw = await self._receive()
            while kind == RESERVE:
                await reservations.enter_async_context(self._memory.reserved_in_turn(fields))
                async with asyncio.timeout(timeout_s):
                    self._send(GRANTED)
                    kind, fields, raw = await self._receive()
        failure = _failure(kind, fields)
        return failure, None if failure else parse(fields, raw)

    def _kill(self) -> None:
        if self._process:
            self._process.kill()
        self._writer.close()

    async def stop(self) -> None:
        """End the process, by force if it does not end by itself."""
        if self._process is None:
            return
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _send(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)

    async def _receive(self) -> tuple[str, Any, bytes]:
        """Return the kind, the fields and the raw bytes of the next message."""
        lengths = MESSAGE_HEADER.unpack(await self._reader.readexactly(MESSAGE_HEADER.size))
        if max(lengths) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has {max(lengths):,} bytes; the limit is {MAX_MESSAGE_BYTES:,}")
        kind, fields = decode_message(await self._reader.readexactly(lengths[0]))
        return kind, fields, await self._reader.readexactly(lengths[1])


class _Protocol(asyncio.StreamReaderProtocol):
    """A stream protocol that reports when the process has closed its end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, on_end: Callable[[], None]) -> None:
        super().__init__(reader)
        self._on_end = on_end

    def eof_received(self) -> bool:
        keep_open = super().eof_received()
        self._on_end()
        return bool(keep_open)


def _failure(kind: str, fields: Any) -> Exception | None:
    """Return the exception that a task's last message stands for."""
    if kind == ERROR:
        name, detail = fields
        return ERRORS[name](str(detail))
    if kind == CRASH:
        return RuntimeError(str(fields))
    if kind != DONE:
        raise ValueError(f'"{kind}" is not the reply to a task')
    return None


def _spawn(descriptor: int) -> "subprocess.Popen[bytes]":
    package = str(Path(__file__).parents[2])
    # Neither the current directory nor what lies beside an installed package may come first on the path: both
    # could hide modules.
    program = f"import sys; sys.path.append({package!r}); from {WORKER} import main; main()"
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-c", program, str(descriptor), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        process_group=0,  # Ctrl-C in a terminal is for the gateway
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # there is a worker for each core
    )
