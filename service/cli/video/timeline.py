"""What a video shows of one face over time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.schemas import TrackedFace
from service.vision.cutout import cut_out
from service.vision.face import Box

GAP = 1.5
"""Steps between two sightings from which a face was absent meanwhile."""


@dataclass
class FaceTimeline:
    """The sightings of one face, in their order.

    Attributes:
        times: seconds since the first frame.
        probabilities: of every emotion, in the order of the model's labels.
        emotions: the labels.
        doubtful: whether the label cannot be relied on.
        picture: the face where it can be seen best, RGB uint8 [height, width, 3].
    """

    times: list[float] = field(default_factory=list)
    probabilities: list[list[float]] = field(default_factory=list)
    emotions: list[str] = field(default_factory=list)
    doubtful: list[bool] = field(default_factory=list)
    picture: NDArray[np.uint8] | None = None
    _best: tuple[bool, float] = (False, -1.0)

    def add(self, time_s: float, face: TrackedFace, labels: list[str], pixels: NDArray[np.uint8]) -> None:
        """Add a sighting in a frame of RGB ``pixels`` [H, W, 3]."""
        self.times.append(time_s)
        self.probabilities.append([face.emotions.get(label, 0.0) for label in labels])
        self.emotions.append(face.emotion)
        self.doubtful.append(not face.reliable)
        rank = (face.reliable, face.detection_score * face.quality.size)
        if rank > self._best:
            self._best = rank
            self.picture = cut_out(pixels, Box(**dict(face.box)))

    def spans(self, step_s: float) -> Iterator[slice]:
        """Yield the sightings without a gap between them, as slices."""
        start = 0
        for index, (time, following) in enumerate(pairwise(self.times), start=1):
            if following - time > GAP * step_s:
                yield slice(start, index)
                start = index
        if self.times:
            yield slice(start, len(self.times))

    def doubtful_spans(self, step_s: float) -> list[tuple[float, float]]:
        """Return start and length in seconds of each span in which the label cannot be relied on."""
        spans: list[tuple[float, float]] = []
        for span in self.spans(step_s):
            times = self.times[span]
            ends = [*times[1:], times[-1] + step_s]
            for start, end, doubtful in zip(times, ends, self.doubtful[span], strict=True):
                if doubtful and spans and np.isclose(sum(spans[-1]), start):
                    spans[-1] = (spans[-1][0], end - spans[-1][0])
                elif doubtful:
                    spans.append((start, end - start))
        return spans

    @property
    def changes(self) -> int:
        """How often the label changed from one sighting to the next."""
        return sum(a != b for a, b in pairwise(self.emotions))


@dataclass(frozen=True)
class FaceSummary:
    """What a video shows of one face, or of all faces together.

    Attributes:
        sightings: in how many analyzed frames it was seen.
        first_s, last_s: seconds since the first frame of the first and of the last sighting.
        emotions: the share of the sightings with each label, largest first.
        changes: how often the label changed.
        doubtful: the share of the sightings whose label cannot be relied on.
    """

    sightings: int
    first_s: float
    last_s: float
    emotions: dict[str, float]
    changes: int
    doubtful: float

    @classmethod
    def of(cls, *timelines: FaceTimeline) -> "FaceSummary":
        """Summarize one face or several; there must be a sighting."""
        labels = Counter(label for each in timelines for label in each.emotions)
        sightings = labels.total()
        return cls(
            sightings=sightings,
            first_s=min(each.times[0] for each in timelines),
            last_s=max(each.times[-1] for each in timelines),
            emotions={label: round(count / sightings, 4) for label, count in labels.most_common()},
            changes=sum(each.changes for each in timelines),
            doubtful=round(sum(sum(each.doubtful) for each in timelines) / sightings, 4),
        )
