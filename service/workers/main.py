"""What a photo process runs: one step after another, as the gateway sends them."""

import os
import signal
import socket
import sys
import traceback
from collections import deque

from service.errors import TandemError
from service.triton.supervisor import die_with
from service.workers.gc_tuning import freeze_heap
from service.workers.protocol import BROKEN, DONE, GRANTED, ORDER, READY, REFUSED, ROOM, answer, read_order
from service.workers.tasks import finder

NICENESS = 5
"""How far photo processes stand back where cores are scarce (see ``nice(2)``): behind the gateway, so that a
refusal comes at once under any load, and behind a local Triton, so that photos end before others begin."""

MIN_RESERVED_BYTES = 8 * 1024 * 1024
"""Bytes of pixels for which nobody asks: few beside what a process has anyway."""


def main() -> None:
    """Work until the gateway ends.

    The first argument is the descriptor of a socket to the gateway, whose messages ``service.workers.protocol``
    describes; the second is the gateway's process id. The process ends with that socket or that process.
    """
    # Those who stop the service often signal all its processes; photos in work are finished all the same.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with(int(sys.argv[2]))
    os.nice(NICENESS)
    link = Connection(int(sys.argv[1]))
    finder()  # a broken installation shows now, and the first photo finds everything loaded
    freeze_heap()
    try:
        link.say(answer(READY, None))
        while True:
            link.say(_work(link))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the gateway has closed the socket, or has ended


def _work(link: "Connection") -> bytes:
    """The answer to the next order."""
    pickled, photo = link.order()
    step = read_order(pickled)
    try:
        return answer(DONE, *step(link.room, photo))
    except TandemError as error:
        return answer(REFUSED, (type(error).__name__, str(error)))
    except Exception:
        return answer(BROKEN, traceback.format_exc())


class Connection:
    """The socket to the gateway."""

    def __init__(self, descriptor: int) -> None:
        """From the descriptor of the socket."""
        self._socket = socket.socket(fileno=descriptor)
        self._ahead: deque[tuple[bytes, bytes]] = deque()

    def order(self) -> tuple[bytes, bytes]:
        """The next order: a pickled step, and the photo to do it with."""
        while not self._ahead:
            self._hear()
        return self._ahead.popleft()

    def room(self, count: int) -> None:
        """Wait until there is room for ``count`` bytes of pixels."""
        if count > MIN_RESERVED_BYTES:
            self.say(answer(ROOM, count))
            while self._hear() != GRANTED:
                pass

    def say(self, message: bytes) -> None:
        """Send a message."""
        self._socket.sendall(message)

    def _hear(self) -> bytes:
        """The head of the gateway's next message; an order is kept."""
        head = self._receive(ORDER.size)
        if head != GRANTED:
            pickled, photo = ORDER.unpack(head)
            self._ahead.append((self._receive(pickled), self._receive(photo)))
        return head

    def _receive(self, count: int) -> bytes:
        received = self._socket.recv(count, socket.MSG_WAITALL)  # all, but for a signal: megabytes without a copy
        while len(received) < count:
            more = self._socket.recv(count - len(received))
            if not more:
                raise EOFError
            received += more
        return received
