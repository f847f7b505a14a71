"""Look at doubtful detections and hints again, enlarged and turned, and decide which of them are faces."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.vision.alignment import AffineMatrix, invert_transform, transform_points, warp
from service.vision.candidates import (
    MIN_PROBABILITY,
    Candidates,
    are_contradicted,
    with_landmarks,
    without_landmarks,
)
from service.vision.decoding import Pixels
from service.vision.light import brighten
from service.vision.onet import ONet
from service.vision.quality import pose
from service.vision.yunet import Detections, YuNet

MIN_LOOK_SCORE = 0.1
"""The minimum score in a second look, 0..1."""

MAX_OFF_CENTER = 0.25
"""How far from the middle of a look a face may be, relative to the look's side."""

MIN_SHARE = 0.5
"""The minimum longer side of a face in a look, relative to that of the box that is looked at."""

MIN_EVIDENCE = 0.6
"""Evidence that a detection must have in one of its looks."""

MIN_HINT_SUPPORT = 0.45
"""The support of a second look that a hint needs; few hints of textures have it, and most of small faces."""

MIN_STRONG_SUPPORT = 0.6
"""The support of a hint with a high score that ONet doubts."""

MIN_TURNED_EVIDENCE = 0.95
"""What a face must have in a second look that turns it."""

MIN_GAIN = 0.1
"""By how much the evidence of another reading must exceed that of the face as it is."""

ROLLS = (0, 90, 180, 270)
"""Of the look in four turns, in degrees."""

MAX_LEVEL = 30
"""Degrees by which a close look is turned at most to count as a look at the photo as it is."""

MIN_SCORE = 0.6
"""Detections with a lower score, unless the caller wants them, are hints."""

MIN_HINT_SIDE, MAX_HINTS = 20, 4
"""Pixels of the longer side that a hint must have, and how many of the best are looked at."""

MAX_BATCH = 16

EndStage = Callable[[str], None]
"""Called with the name of each stage ("decode", "detect", "landmarks") at its end."""


@dataclass(frozen=True)
class Look:
    """The square around a box, ``margin`` times its longer side, that is resized to ``side`` pixels."""

    margin: float
    side: int


CLOSE_LOOK = Look(1.4, 192)
"""For faces that are small, blurred or without hair and background."""

TURNED_LOOK = Look(1.8, 128)
"""For choosing a turn. At this size, upright faces score 0.9 or more, and faces on their heads less."""


class SecondLook:
    """Looks again. Thread-safe, so one instance can be shared."""

    def __init__(self, yunet: YuNet, onet: ONet) -> None:
        self._yunet = yunet
        self._onet = onet

    def look(
        self, pixels: Pixels, doubtful: Candidates, hints: Detections, floor: float, end_stage: EndStage
    ) -> tuple[Candidates, set[int]]:
        """Look at doubtful faces and hints again, enlarged and turned.

        Returns:
            The best readings of those that are faces, and the turns, other than none, that make them upright.
        """
        if not len(doubtful) and not len(hints):
            return Candidates.none(), set()
        first = Candidates.join([doubtful, without_landmarks(hints)])
        is_hint = np.arange(len(first)) >= len(doubtful)
        levels = np.array([pose(points)[0] for points in first.landmarks])
        looks = [look_at(self._yunet, pixels, first.boxes, CLOSE_LOOK, levels)]
        looks += [
            look_at(self._yunet, pixels, first.boxes, TURNED_LOOK, np.full(len(first), roll)) for roll in ROLLS
        ]
        end_stage("detect")
        close, *turned = with_landmarks(self._onet, pixels, Detections.join(looks)).split(len(looks))
        end_stage("landmarks")
        upright = [first, close, turned[0]]
        support = np.maximum(close.support(first), turned[0].support(first))
        is_likely = np.maximum(close.probabilities, turned[0].probabilities) >= MIN_PROBABILITY
        is_strong = (first.scores >= MIN_SCORE) & (support >= MIN_STRONG_SUPPORT) & ~are_contradicted(upright)
        evidence = np.stack([each.evidence for each in [*upright, *turned[1:]]])  # [6, n]
        is_weak = evidence[:3].max(axis=0) < MIN_EVIDENCE
        is_face = np.where(
            is_hint,
            ((support >= MIN_HINT_SUPPORT) & is_likely) | is_strong,
            ~are_contradicted(upright) & ~is_weak,
        )
        evidence[0, is_hint] = -np.inf  # the hint itself is no evidence
        evidence[0] += MIN_GAIN
        evidence[1, np.abs(levels) < MAX_LEVEL] += MIN_GAIN
        evidence[2] += MIN_GAIN
        evidence[3:][evidence[3:] < MIN_TURNED_EVIDENCE] = -np.inf
        chosen = evidence.argmax(axis=0)
        best = Candidates.join([*upright, *turned[1:]]).take(chosen * len(first) + np.arange(len(first)))
        best.scores[is_hint] = np.maximum((best.scores + first.scores)[is_hint] / 2, floor)
        best.scores[is_hint & ~is_likely] = floor
        seen_upright = ~is_hint & (chosen < 3)  # a second look makes no detection surer
        best.scores[seen_upright] = np.minimum(best.scores, first.scores)[seen_upright]
        best = best.take(is_face | (chosen >= 3))
        return best, {round(pose(points)[0] / 90) % 4 for points in best.landmarks} - {0}


def choose_hints(hints: Detections) -> Detections:
    """Choose the few that are worth a second look."""
    return hints.take(hints.boxes[:, 2:].max(axis=1) >= MIN_HINT_SIDE).take(slice(MAX_HINTS))


def look_at(
    yunet: YuNet, pixels: Pixels, boxes: NDArray[np.float32], look: Look, rolls: NDArray[np.float64]
) -> Detections:
    """Look at n boxes of an RGB image, each turned so that a face with a roll of ``rolls`` [n] degrees is upright.

    Returns:
        The best face in the middle of each look, in pixels of the image: n detections in the order of ``boxes``. A
        score of 0 means none; such a box is the one looked at.
    """
    transforms = [_look_transform(box, look, math.radians(roll)) for box, roll in zip(boxes, rolls, strict=True)]
    crops = [brighten(warp(pixels, matrix, (look.side, look.side))) for matrix in transforms]
    found: list[Detections] = []
    for start in range(0, len(crops), MAX_BATCH):
        found += yunet.detect_all(crops[start : start + MAX_BATCH], threshold=MIN_LOOK_SCORE)
    result = Detections(boxes.copy(), np.zeros(len(boxes), np.float32), np.zeros((len(boxes), 5, 2), np.float32))
    for index, (each, matrix) in enumerate(zip(found, transforms, strict=True)):
        centers = each.boxes[:, :2] + each.boxes[:, 2:] / 2
        is_central = np.abs(centers / look.side - 0.5).max(axis=1, initial=0) < MAX_OFF_CENTER
        is_central &= each.boxes[:, 2:].max(axis=1, initial=0) > MIN_SHARE * look.side / look.margin
        if not is_central.any():
            continue
        best = int(np.argmax(is_central))  # detections are ordered by score
        back = invert_transform(matrix)
        size = each.boxes[best, 2:] * np.hypot(back[0, 0], back[1, 0])
        if abs(back[1, 0]) > abs(back[0, 0]):  # lies on its side
            size = size[::-1]
        result.boxes[index] = *(transform_points(back, centers[best]) - size / 2), *size
        result.scores[index] = each.scores[best]
        result.landmarks[index] = transform_points(back, each.landmarks[best])
    return result


def _look_transform(box: NDArray[np.float32], look: Look, angle: float) -> AffineMatrix:
    """Map the square around a box to the look, turned counterclockwise by ``angle`` in radians."""
    x, y, width, height = (float(value) for value in box)
    scale = look.side / max(max(width, height) * look.margin, 1.0)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    return np.column_stack([rotation, look.side / 2 - rotation @ (x + width / 2, y + height / 2)])
