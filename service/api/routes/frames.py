"""Frames that wait, how many may come, and the streams that they come by."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame's bytes, its number (from 1) and how many between the one taken before and it were dropped."""

    number: int
    data: bytes
    dropped: int


class NewestFrame:
    """Room for one waiting frame: one that comes while another waits takes its place."""

    def __init__(self) -> None:
        self.received = 0
        self._taken = 0
        self._data = b""
        self._waits = asyncio.Event()

    def put(self, data: bytes) -> bool:
        """Let a frame wait, and tell whether another had to go for it."""
        replaces = self._waits.is_set()
        self.received += 1
        self._data = data
        self._waits.set()
        return replaces

    async def take(self) -> Frame:
        """The newest frame, as soon as there is one that was not taken yet."""
        await self._waits.wait()
        self._waits.clear()
        frame = Frame(self.received, self._data, dropped=self.received - self._taken - 1)
        self._data = b""
        self._taken = self.received
        return frame


class FrameRate:
    """A token bucket: ``per_s`` frames a second for any length of time; at once, a second's worth and one more."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._room = per_s + 1
        self._tokens = self._room
        self._at = now

    def allows(self, now: float) -> bool:
        """Whether a frame may come at ``now``, in seconds of a clock that only goes forward; counts it if so."""
        self._tokens = min(self._room, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
