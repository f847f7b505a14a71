"""Following faces from frame to frame: which box is whose, and calmer probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.schemas import FaceBox, FaceEmotion, TrackedFace

MIN_IOU = 0.2
"""Intersection over union from which a box continues a track: a head that moves by half its width has 0.33."""

MAX_MISSED = 10
"""Answered frames for which a face may be out of sight and still come back as the same track."""

DIGITS = 6


def iou(a: FaceBox, b: FaceBox) -> float:
    """Intersection over union of two boxes, 0 to 1; 0 where both are empty."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    intersection = max(width, 0.0) * max(height, 0.0)
    # Rounding can make the areas of tiny boxes smaller than their intersection.
    union = max(a.width * a.height + b.width * b.height - intersection, intersection)
    return intersection / union if union else 0.0


def match(before: Sequence[FaceBox], now: Sequence[FaceBox], least_overlap: float = MIN_IOU) -> list[int | None]:
    """For each box of ``now`` the index of the box of ``before`` that it continues, or None.

    Greedy: the pair that overlaps most is joined first. No box is joined twice, and no pair that overlaps less
    than ``least_overlap`` (greater than 0).
    """
    pairs = sorted(
        (-iou(old, new), index, place)
        for index, old in enumerate(before)
        for place, new in enumerate(now)
        if iou(old, new) >= least_overlap
    )
    joined: list[int | None] = [None] * len(now)
    taken: set[int] = set()
    for _, index, place in pairs:
        if index not in taken and joined[place] is None:
            joined[place] = index
            taken.add(index)
    return joined


def smooth(before: Mapping[str, float], now: Mapping[str, float], weight: float) -> dict[str, float]:
    """Exponential smoothing: ``weight`` (0 to 1) of the former probabilities, the rest of the new ones.

    Where the labels are others than before, since a new model was loaded, the new probabilities stay as they are.
    """
    if before.keys() != now.keys():
        return dict(now)
    return {label: weight * before[label] + (1 - weight) * p for label, p in now.items()}


@dataclass(frozen=True)
class Track:
    """One face over time: where it was last, its smoothed probabilities, the frames since it was seen."""

    number: int
    box: FaceBox
    emotions: Mapping[str, float]
    missed: int = 0


class Tracker:
    """Numbers the faces of successive frames, from 1, and smooths their probabilities.

    Args:
        weight: how much of the former probabilities stays, 0 (nothing) up to, but not including, 1.
    """

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._tracks: list[Track] = []
        self._last_number = 0

    def update(self, faces: Sequence[FaceEmotion]) -> list[TrackedFace]:
        """The faces of the next frame, in their order, each with its track's number."""
        joined = match([track.box for track in self._tracks], [face.box for face in faces])
        seen: list[Track] = []
        answers: list[TrackedFace] = []
        for face, index in zip(faces, joined, strict=True):
            if index is None:
                self._last_number += 1
                track = Track(self._last_number, face.box, face.emotions)
            else:
                former = self._tracks[index]
                track = Track(former.number, face.box, smooth(former.emotions, face.emotions, self._weight))
            seen.append(track)
            answers.append(_smoothed(face, track))
        lost = [
            Track(track.number, track.box, track.emotions, track.missed + 1)
            for index, track in enumerate(self._tracks)
            if index not in joined and track.missed < MAX_MISSED
        ]
        self._tracks = seen + lost
        return answers


def _smoothed(face: FaceEmotion, track: Track) -> TrackedFace:
    emotions = {label: round(p, DIGITS) for label, p in track.emotions.items()}
    emotion = max(emotions, key=lambda label: emotions[label])
    return TrackedFace(
        **{
            **dict(face),
            "track": track.number,
            "emotion": emotion,
            "confidence": emotions[emotion],
            "emotions": emotions,
        }
    )
