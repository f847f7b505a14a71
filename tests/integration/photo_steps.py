"""What tests let a photo process do."""

import os
import signal
import time
from pathlib import Path
from typing import TypeVar

from service.photos.steps import Room

Value = TypeVar("Value")


class Evil:
    """What an attacker would have a process say: reading it runs a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def run_something(_room: Room, _photo: bytes) -> Evil:
    return Evil()


def answer(_room: Room, _photo: bytes, value: Value) -> Value:
    return value


def length(_room: Room, photo: bytes) -> int:
    return len(photo)


def process_id(_room: Room, _photo: bytes) -> int:
    return os.getpid()


def fail(_room: Room, _photo: bytes, error: Exception) -> None:
    raise error


def die(_room: Room, _photo: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hold(room: Room, _photo: bytes, begun: Path, go: Path, memory: int = 0) -> None:
    """Ask for memory; then create one file and wait for the other."""
    room(memory)
    begun.touch()
    while not go.exists():
        time.sleep(0.01)
