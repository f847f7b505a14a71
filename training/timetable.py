"""The time left of several steps in a row, such as those of `training all`."""

import time
from collections.abc import Mapping


class Timetable:
    """Steps in a row with an estimate of the seconds of each, corrected by how long those before took."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = dict(seconds)
        self._estimated, self._taken = 0.0, 0.0
        self._step = ""
        self._started = time.monotonic()

    def begin(self, step: str) -> None:
        """Begin a step, and print its name, its place and the time left of all."""
        self._step = step
        self._started = time.monotonic()
        place = list(self._seconds).index(step) + 1
        left = duration(self.left(self._seconds[step] * self._correction()))
        print(f"\n[{place} of {len(self._seconds)}] {step}: about {left} left of all steps", flush=True)

    def finish(self) -> None:
        """Correct the estimates of the other steps by how long this one took."""
        self._estimated += self._seconds[self._step]
        self._taken += time.monotonic() - self._started

    def left(self, seconds: float) -> float:
        """Return the seconds left of all steps, given those left of this one."""
        steps = list(self._seconds)
        later = steps[steps.index(self._step) + 1 :]
        return seconds + self._correction() * sum(self._seconds[step] for step in later)

    def _correction(self) -> float:
        return self._taken / self._estimated if self._estimated else 1.0


def duration(seconds: float) -> str:
    """Format a time for people: 40 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
