"""What a photo process runs: one step after another, as the gateway sends them."""

import os
import signal
import socket
import sys
import traceback
from functools import partial

from service.errors import TandemError
from service.garbage import settle
from service.photos.messages import BROKEN, DONE, GRANTED, ORDER, READY, REFUSED, ROOM, answer, read_order
from service.photos.steps import finder
from service.triton.keeper import die_with

NICENESS = 5
"""How far photo processes stand back where cores are scarce (see ``nice(2)``): behind the gateway, so that a
refusal comes at once under any load, and behind a local Triton, so that photos end before others begin."""

LITTLE = 8 * 1024 * 1024
"""Bytes of pixels for which nobody asks: few beside what a process has anyway."""


def main() -> None:
    """Work until the gateway ends.

    The first argument is the descriptor of a socket to it; ``service.photos.messages`` has what is said there. The
    process ends when that closes, and is killed when the gateway, the process whose id is the second, ends.
    """
    # Those who stop the service often signal all its processes; photos in work are finished all the same.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with(int(sys.argv[2]))
    os.nice(NICENESS)
    link = socket.socket(fileno=int(sys.argv[1]))
    finder()  # a broken installation shows now, and the first photo finds everything loaded
    settle()
    try:
        link.sendall(answer(READY, None))
        while True:
            link.sendall(_work(link))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the gateway has closed the socket, or has ended


def _work(link: socket.socket) -> bytes:
    """The answer to one order."""
    order, photo = ORDER.unpack(_receive(link, ORDER.size))
    step = read_order(_receive(link, order))
    data = _receive(link, photo)
    try:
        return answer(DONE, *step(partial(_room, link), data))
    except TandemError as error:
        return answer(REFUSED, (type(error).__name__, str(error)))
    except Exception:
        return answer(BROKEN, traceback.format_exc())


def _receive(link: socket.socket, count: int) -> bytes:
    received = link.recv(count, socket.MSG_WAITALL)  # all, but for a signal: megabytes without a copy
    while len(received) < count:
        more = link.recv(count - len(received))
        if not more:
            raise EOFError
        received += more
    return received


def _room(link: socket.socket, count: int) -> None:
    if count > LITTLE:
        link.sendall(answer(ROOM, count))
        _receive(link, len(GRANTED))
