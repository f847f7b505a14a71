"""A photo process: does one step after another, as the gateway sends them.

    python -m service.photos.worker DESCRIPTOR

The descriptor is of a socket to the gateway; ``service.photos.messages`` has what is said there. When it closes,
the process ends.
"""

import os
import signal
import sys
import traceback
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from service.errors import TandemError
from service.garbage import settle
from service.photos.messages import BROKEN, DONE, READY, REFUSED, ROOM, Step
from service.photos.steps import Room, finder

NICENESS = 5
"""How far photo processes stand back where cores are scarce (see ``nice(2)``): behind the gateway, so that a
refusal comes at once under any load, and behind a local Triton, so that photos end before others begin."""

LITTLE = 8 * 1024 * 1024
"""Bytes of pixels for which nobody asks: few beside what a process has anyway."""


def main() -> None:
    """See the module."""
    # Those who stop the service often signal all its processes; photos in work are finished all the same.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    link: Connection = Connection(int(sys.argv[1]))
    finder()  # a broken installation shows now, and the first photo finds everything loaded
    settle()
    link.send((READY, None))
    try:
        while True:
            step = link.recv()
            link.send(_outcome(step, partial(_room, link)))
            del step  # megabytes, perhaps
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the gateway has closed the socket, or has ended


def _outcome(step: Step[Any], room: Room) -> tuple[str, Any]:
    try:
        return DONE, step(room)
    except TandemError as error:
        return REFUSED, error
    except Exception:
        return BROKEN, traceback.format_exc()


def _room(link: Connection, count: int) -> None:
    if count > LITTLE:
        link.send((ROOM, count))
        link.recv_bytes()


if __name__ == "__main__":
    main()
