"""The program of a worker process: it runs one task after another, as the gateway sends them."""

import os
import signal
import socket
import sys
import traceback
from collections import deque

from service.errors import TandemError
from service.triton.supervisor import die_with
from service.workers.gc_tuning import freeze_heap
from service.workers.protocol import (
    CRASH,
    DONE,
    ERROR,
    GRANTED,
    READY,
    RESERVE,
    TASK_HEADER,
    decode_task,
    encode_message,
)
from service.workers.tasks import face_pipeline

NICENESS = 5
"""Niceness of workers, see ``nice(2)``. When cores are scarce they yield to the gateway, so that it can refuse
requests at once, and to a local Triton, so that photos in progress finish first."""

MIN_RESERVED_BYTES = 8 * 1024 * 1024
"""Memory that a task may use without reserving it; little compared to what the process needs anyway."""


def main() -> None:
    """Run tasks until the gateway ends.

    The first argument is the descriptor of a socket to the gateway, see ``service.workers.protocol``; the second
    is the gateway's process id. The worker ends when either of them does.
    """
    # Whoever stops the service often signals all its processes; photos in progress are finished nevertheless.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with(int(sys.argv[2]))
    os.nice(NICENESS)
    connection = Connection(int(sys.argv[1]))
    face_pipeline()  # a broken installation fails now, and the first photo finds everything loaded
    freeze_heap()
    silence_decoders()
    try:
        connection.send(encode_message(READY, None))
        while True:
            connection.send(_run_next_task(connection))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the gateway has closed the socket or has ended


def silence_decoders() -> None:
    """Discard what is written to stderr: libraries in C describe photos there, in the middle of the log."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def _run_next_task(connection: "Connection") -> bytes:
    pickled, photo = connection.next_task()
    task = decode_task(pickled)
    try:
        return encode_message(DONE, *task(connection.reserve, photo))
    except TandemError as error:
        return encode_message(ERROR, (type(error).__name__, str(error)))
    except Exception:
        return encode_message(CRASH, traceback.format_exc())


class Connection:
    """The worker's end of the socket to the gateway."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._tasks: deque[tuple[bytes, bytes]] = deque()

    def next_task(self) -> tuple[bytes, bytes]:
        """Wait for the next pickled task and its photo."""
        while not self._tasks:
            self.receive()
        return self._tasks.popleft()

    def reserve(self, count: int) -> None:
        """Wait until the gateway grants ``count`` bytes of memory; it takes them back when the task is done."""
        if count > MIN_RESERVED_BYTES:
            self.send(encode_message(RESERVE, count))
            while self.receive() != GRANTED:
                pass

    def send(self, message: bytes) -> None:
        """Send a message."""
        self._socket.sendall(message)

    def receive(self) -> bytes:
        """Return the header of the gateway's next message; a task that follows it is kept for ``next_task``."""
        header = self._receive_exactly(TASK_HEADER.size)
        if header != GRANTED:
            pickled, photo = TASK_HEADER.unpack(header)
            self._tasks.append((self._receive_exactly(pickled), self._receive_exactly(photo)))
        return header

    def _receive_exactly(self, count: int) -> bytes:
        received = self._socket.recv(count, socket.MSG_WAITALL)  # all at once, unless a signal intervenes
        while len(received) < count:
            more = self._socket.recv(count - len(received))
            if not more:
                raise EOFError
            received += more
        return received
