"""The frames of a stream: the newest one waits, and how many may come is limited."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame: its number in the stream, from 1, and how many frames right before it were dropped."""

    number: int
    photo: bytes
    dropped: int


class NewestFrame:
    """Holds one waiting frame; a new frame replaces it."""

    def __init__(self) -> None:
        self.received = 0
        self._taken = 0
        self._photo = b""
        self._available = asyncio.Event()

    def put(self, photo: bytes) -> bool:
        """Let a frame wait; return whether it replaced another one."""
        replaces = self._available.is_set()
        self.received += 1
        self._photo = photo
        self._available.set()
        return replaces

    async def take(self) -> Frame:
        """Wait for a frame that was not taken yet and take it."""
        await self._available.wait()
        self._available.clear()
        frame = Frame(self.received, self._photo, dropped=self.received - self._taken - 1)
        self._photo = b""
        self._taken = self.received
        return frame


class FrameRate:
    """A token bucket of ``per_s`` frames per second; bursts of one second's frames plus one are allowed."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._size = per_s + 1
        self._tokens = self._size
        self._at = now

    def allows(self, now: float) -> bool:
        """Return whether a frame may come at ``now`` (seconds of a monotonic clock), and count it if so."""
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
