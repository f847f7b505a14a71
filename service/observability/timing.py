"""How long each step of a photo takes, in whatever process it is done."""

import time
from dataclasses import dataclass, field

StageTiming = tuple[str, float, float]
"""A step's name, start and end, in seconds of ``time.perf_counter``, which all processes of a machine share."""


@dataclass
class StageTimer:
    """The steps of one photo; the first begins when the watch is made, or at ``last``."""

    last: float = field(default_factory=time.perf_counter)
    laps: list[StageTiming] = field(default_factory=list)

    def lap(self, name: str) -> None:
        """The step of this name ends now, and the next one begins."""
        now = time.perf_counter()
        self.laps.append((name, self.last, now))
        self.last = now

    def go_on(self, laps: list[StageTiming]) -> None:
        """These steps were done elsewhere."""
        self.laps += laps
        self.last = laps[-1][2]

    @property
    def seconds(self) -> dict[str, float]:
        """Of each step by name."""
        sums: dict[str, float] = {}
        for name, start, end in self.laps:
            sums[name] = sums.get(name, 0.0) + end - start
        return sums
