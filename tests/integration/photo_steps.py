"""What tests let a photo process do."""

import asyncio
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from service.photos.steps import Reply, Room


async def exists(path: Path) -> None:
    """Wait for a file that a step creates."""
    async with asyncio.timeout(30):
        while not path.exists():
            await asyncio.sleep(0.01)


def answer(_room: Room, _photo: bytes, fields: object, raw: bytes = b"") -> Reply:
    return fields, raw


def length(_room: Room, photo: bytes) -> Reply:
    return len(photo), b""


def process_id(_room: Room, _photo: bytes) -> Reply:
    return os.getpid(), b""


def fail(_room: Room, _photo: bytes, error: Exception) -> Reply:
    raise error


def die(_room: Room, _photo: bytes) -> Reply:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hold(room: Room, _photo: bytes, begun: Path, go: Path, memory: int = 0) -> Reply:
    """Ask for memory; then create one file and wait for the other."""
    room(memory)
    begun.touch()
    while not go.exists():
        time.sleep(0.01)
    return None, b""


def next_at_hand(_room: Room, _photo: bytes) -> Reply:
    """Whether the next order comes while this one is worked on."""
    readable, _, _ = select.select([int(sys.argv[1])], [], [], 1)
    return bool(readable), b""


def fields_of(fields: Any, _raw: bytes) -> Any:
    """Reads a reply."""
    return fields
