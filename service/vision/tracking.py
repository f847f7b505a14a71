"""Track faces from frame to frame, and smooth their probabilities."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.schemas import FaceBox, FaceEmotion, Reason, TrackedFace
from service.vision.quality import MIN_MARGIN, is_ambiguous

MIN_IOU = 0.2
"""Intersection over union from which a box continues a track; a box that moves by half its width has 0.33."""

MAX_MISSED = 10
"""Frames in a row that a face may be missing and still continue its track."""

MAX_DISTANCE = 0.75
"""How far the center of a face may move while its head turns, relative to the mean of both boxes' longer sides."""

MAX_GROWTH = 1.6
"""By which factor the longer side of its box may change meanwhile."""

DIGITS = 6


def iou(a: FaceBox, b: FaceBox) -> float:
    """Return the intersection over union of two boxes, 0..1; 0 if both are empty."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    intersection = max(width, 0.0) * max(height, 0.0)
    # Rounding can make the areas of tiny boxes smaller than their intersection.
    union = max(a.width * a.height + b.width * b.height - intersection, intersection)
    return intersection / union if union else 0.0


def match_boxes(previous: Sequence[FaceBox], current: Sequence[FaceBox]) -> list[int | None]:
    """Find for each current box the index of the previous box that it continues, or None.

    Greedy: pairs are matched by descending IoU, each box at most once, and none below ``MIN_IOU``.
    """
    pairs = sorted(
        (-overlap, i, j)
        for i, old in enumerate(previous)
        for j, new in enumerate(current)
        if (overlap := iou(old, new)) >= MIN_IOU
    )
    matches: list[int | None] = [None] * len(current)
    for _, i, j in pairs:
        if i not in matches and matches[j] is None:
            matches[j] = i
    return matches


def match_turned(previous: Sequence[FaceBox], current: Sequence[FaceBox]) -> list[int | None]:
    """Match boxes that overlap too little, as those of a head that turned or tilted between two sightings.

    Only a box near a single previous one, which is near no other, is matched; otherwise it might be another face.
    """
    near = [[i for i, old in enumerate(previous) if _is_near(old, new)] for new in current]
    counts = Counter(i for found in near for i in found)
    return [found[0] if len(found) == 1 and counts[found[0]] == 1 else None for found in near]


def _is_near(old: FaceBox, new: FaceBox) -> bool:
    sides = max(old.width, old.height), max(new.width, new.height)
    distance = math.hypot(
        old.x + old.width / 2 - new.x - new.width / 2, old.y + old.height / 2 - new.y - new.height / 2
    )
    return distance <= MAX_DISTANCE * sum(sides) / 2 and max(sides) <= MAX_GROWTH * min(sides)


def smooth(previous: Mapping[str, float], current: Mapping[str, float], weight: float) -> dict[str, float]:
    """Smooth probabilities exponentially: ``weight`` (0..1) of the previous ones, the rest of the current ones.

    Returns the current ones unchanged if the labels differ, as after a new model was loaded.
    """
    if previous.keys() != current.keys():
        return dict(current)
    return {label: weight * previous[label] + (1 - weight) * p for label, p in current.items()}


def hold(held: str, emotions: Mapping[str, float]) -> str:
    """Return the likeliest label; the one that was held until now if another leads it by less than ``MIN_MARGIN``.

    Otherwise the label of a face between two emotions would change from frame to frame, however much is smoothed.
    """
    likeliest = max(emotions, key=lambda label: emotions[label])
    return held if held in emotions and emotions[likeliest] - emotions[held] < MIN_MARGIN else likeliest


@dataclass(frozen=True)
class Track:
    """A face over time: its last box, its smoothed probabilities, its label, and the frames since it was seen."""

    number: int
    box: FaceBox
    emotions: Mapping[str, float]
    emotion: str
    missed: int = 0


class Tracker:
    """Numbers the faces of successive frames, from 1, and smooths their probabilities and labels.

    Args:
        weight: Share of the previous probabilities that is kept, from 0 (no smoothing) to below 1.
    """

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._tracks: list[Track] = []
        self._last_number = 0

    def update(self, faces: Sequence[FaceEmotion], weight: float | None = None) -> list[TrackedFace]:
        """Add a frame; return its faces in the same order, with their tracks' numbers.

        Args:
            faces: The frame's faces.
            weight: Another weight for this frame, as when frames are not equally far apart.
        """
        weight = self._weight if weight is None else weight
        matches = match_boxes([track.box for track in self._tracks], [face.box for face in faces])
        lost = [i for i in range(len(self._tracks)) if i not in matches]
        new = [j for j, index in enumerate(matches) if index is None]
        turned = match_turned([self._tracks[i].box for i in lost], [faces[j].box for j in new])
        for j, found in zip(new, turned, strict=True):
            matches[j] = None if found is None else lost[found]
        seen: list[Track] = []
        for face, index in zip(faces, matches, strict=True):
            if index is None:
                self._last_number += 1
                seen.append(Track(self._last_number, face.box, face.emotions, face.emotion))
            else:
                track = self._tracks[index]
                emotions = smooth(track.emotions, face.emotions, weight)
                seen.append(
                    Track(track.number, face.box, emotions, hold(track.emotion if weight else "", emotions))
                )
        missing = [
            replace(track, missed=track.missed + 1)
            for index, track in enumerate(self._tracks)
            if index not in matches and track.missed < MAX_MISSED
        ]
        self._tracks = seen + missing
        return [_tracked_face(face, track) for face, track in zip(faces, seen, strict=True)]


def _tracked_face(face: FaceEmotion, track: Track) -> TrackedFace:
    emotions = {label: round(p, DIGITS) for label, p in track.emotions.items()}
    reasons: list[Reason] = [reason for reason in face.unreliable_because if reason != "ambiguous"]
    if is_ambiguous(emotions.values()):
        reasons.append("ambiguous")
    return TrackedFace(
        **{
            **dict(face),
            "track": track.number,
            "emotion": track.emotion,
            "confidence": emotions[track.emotion],
            "emotions": emotions,
            "reliable": not reasons,
            "unreliable_because": reasons,
        }
    )
