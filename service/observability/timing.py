"""Measures how long each stage of a photo takes, across processes."""

import time
from dataclasses import dataclass, field

StageTiming = tuple[str, float, float]
"""A stage's name, start and end, in seconds of ``time.perf_counter``, which all processes of a machine share."""


@dataclass
class StageTimer:
    """The stages of one photo, one after the other; the first starts at ``last``, by default now."""

    last: float = field(default_factory=time.perf_counter)
    """When the last stage ended."""
    stages: list[StageTiming] = field(default_factory=list)

    def end_stage(self, name: str) -> None:
        """End the current stage under this name and start the next one."""
        now = time.perf_counter()
        self.stages.append((name, self.last, now))
        self.last = now

    def extend(self, stages: list[StageTiming]) -> None:
        """Add stages that another process timed; the next stage starts where the last of them ended."""
        self.stages += stages
        self.last = stages[-1][2]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage; stages of the same name are added up."""
        sums: dict[str, float] = {}
        for name, start, end in self.stages:
            sums[name] = sums.get(name, 0.0) + end - start
        return sums
