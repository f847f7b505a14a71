"""Places in a photo that may show a face, how much speaks for each, and which of several boxes is the face."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.vision.alignment import AffineMatrix, transform_points
from service.vision.decoding import Pixels
from service.vision.onet import ONet
from service.vision.yunet import Detections

MAX_IOU = 0.3
"""Of two boxes with a larger intersection over union, only one is a face."""

MAX_CONTAINED = 0.6
"""Of two boxes that share a larger part of the smaller one, only one is a face: half a face lies inside a face."""

DOUBLING_BONUS = 0.05
"""How much lower a score may be per doubling of the box: parts of a large face reach 0.75, whole faces 0.9."""

PROBABILITY_WEIGHT, SUPPORT_PROBABILITY_WEIGHT = 0.3, 0.2
"""What ONet's probability counts for, relative to YuNet's score, in evidence and in support."""

MAX_SHIFT, MIN_PROBABILITY = 0.14, 0.1
"""People have a smaller median shift of the landmarks, or once a higher probability."""

CONFIDENT_SCORE = 0.9
"""Score from which a detection is a face whatever its landmarks: animals do not reach it."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Possible faces, n of them.

    Attributes:
        boxes: float32 [n, 4], x, y, width, height in pixels.
        scores: float32 [n], YuNet's scores, 0..1.
        coarse: float32 [n, 5, 2], YuNet's landmarks in pixels.
        landmarks: float32 [n, 5, 2], ONet's landmarks in pixels.
        probabilities: float32 [n], ONet's probabilities of a face, 0..1.
        hidden: float32 [n], ONet's probabilities that an eye or the mouth is hidden, 0..1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    coarse: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    hidden: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Self:
        """Return no candidates."""
        points = np.empty((0, 5, 2), np.float32)
        empty = np.empty(0, np.float32)
        return cls(np.empty((0, 4), np.float32), empty, points, points, empty, empty)

    @property
    def shifts(self) -> NDArray[np.float32]:
        """Mean distances between the landmarks of both networks, relative to the box, float32 [n]."""
        return _distances(self.landmarks, self.coarse, self.boxes)

    @property
    def evidence(self) -> NDArray[np.float32]:
        """How much speaks for a face in this position, float32 [n], about 0 to 1.25.

        Two networks must agree: YuNet's score, a part of ONet's probability, less the distance between their
        landmarks. Each alone is wrong too often: YuNet gives animals 0.88 and faces that stand on their heads
        0.9; ONet doubts profiles and blurred faces.
        """
        evidence: NDArray[np.float32] = self.scores + PROBABILITY_WEIGHT * self.probabilities - self.shifts
        return evidence

    def support(self, hints: "Candidates") -> NDArray[np.float32]:
        """How much this look, float32 [n], supports that the same hints show faces.

        It counts like evidence, and the landmarks must be where the hints had them: what a texture shows changes
        with the enlargement, a face does not.
        """
        moved = _distances(self.coarse, hints.coarse, hints.boxes)
        support = self.scores + SUPPORT_PROBABILITY_WEIGHT * self.probabilities - self.shifts - moved
        return np.where(self.scores > 0, support, np.float32(-np.inf))

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """Return some of the candidates."""
        return type(self)(
            self.boxes[index],
            self.scores[index],
            self.coarse[index],
            self.landmarks[index],
            self.probabilities[index],
            self.hidden[index],
        )

    def by_size(self) -> Self:
        """Return the candidates, those with the largest boxes first."""
        return self.take(np.argsort(-self.boxes[:, 2] * self.boxes[:, 3], kind="stable"))

    def split(self, parts: int) -> list[Self]:
        """Return the candidates in parts of equal length."""
        size = len(self) // parts
        return [self.take(slice(part * size, (part + 1) * size)) for part in range(parts)]

    @classmethod
    def join(cls, parts: Sequence["Candidates"]) -> Self:
        """Return the candidates of all parts."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.coarse for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.hidden for part in parts]),
        )

    def moved(self, matrix: AffineMatrix) -> Self:
        """Return the candidates of an image in one that a transform turns and scales it to; boxes stay upright."""
        sizes = self.boxes[:, 2:] * np.hypot(*matrix[0, :2])
        centers = transform_points(matrix, self.boxes[:, :2] + self.boxes[:, 2:] / 2)
        boxes = np.concatenate([centers - sizes / 2, sizes], axis=1).astype(np.float32)
        coarse, landmarks = (
            transform_points(matrix, points).astype(np.float32) for points in (self.coarse, self.landmarks)
        )
        return replace(self, boxes=boxes, coarse=coarse, landmarks=landmarks)

    def turned_back(self, turns: int, size: tuple[int, int]) -> Self:
        """Undo counterclockwise quarter turns of an image that has ``size`` (height, width) after them."""
        if not turns:
            return self
        ends = np.stack([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)
        ends = rotate_back(ends, turns, size)
        boxes = np.concatenate([ends.min(axis=1), np.ptp(ends, axis=1)], axis=1)
        coarse, landmarks = (rotate_back(points, turns, size) for points in (self.coarse, self.landmarks))
        return replace(self, boxes=boxes, coarse=coarse, landmarks=landmarks)


def rotate_back(points: NDArray[np.float32], turns: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Undo counterclockwise quarter turns for points [..., 2] of a turned image of ``size`` (height, width)."""
    height, width = size
    x, y = points[..., 0], points[..., 1]
    match turns % 4:
        case 1:
            x, y = height - y, x
        case 2:
            x, y = width - x, height - y
        case 3:
            x, y = y, width - x
    return np.stack([x, y], axis=-1).astype(np.float32)


def best_boxes(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Choose among boxes of several scales, so that each face is left once.

    Scores decide, with ``DOUBLING_BONUS`` for the larger box. Two boxes show the same face if their intersection
    over union exceeds ``MAX_IOU``, or if they share more than ``MAX_CONTAINED`` of the smaller one: two halves of
    one face overlap little, but both lie inside it.

    Args:
        boxes: x, y, width, height, [n, 4].
        scores: [n].

    Returns:
        Indices of the chosen boxes, best first.
    """
    areas = boxes[:, 2] * boxes[:, 3]
    ranks = np.argsort(-(scores + DOUBLING_BONUS * np.log2(areas.clip(1e-6)) / 2), kind="stable")
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    kept: list[int] = []
    for index in ranks:
        sides = np.minimum(ends[kept], ends[index]) - np.maximum(starts[kept], starts[index])
        shared = sides.clip(0).prod(axis=1)
        is_same = shared > MAX_IOU * (areas[kept] + areas[index] - shared)
        is_same |= shared > MAX_CONTAINED * np.minimum(areas[kept], areas[index])
        if not is_same.any():
            kept.append(int(index))
    return np.array(kept, np.intp)


def without_landmarks(found: Detections) -> Candidates:
    """Return detections that ONet has not seen, as candidates without its support."""
    unknown = np.zeros_like(found.scores)
    return Candidates(found.boxes, found.scores, found.landmarks, found.landmarks.copy(), unknown, unknown.copy())


def with_landmarks(onet: ONet, pixels: Pixels, found: Detections) -> Candidates:
    """Refine the landmarks of detections; those with a score of 0 keep theirs and get no support."""
    seen = without_landmarks(found)
    exist = found.scores > 0
    seen.landmarks[exist], seen.probabilities[exist], seen.hidden[exist] = onet.refine(
        pixels, found.landmarks[exist]
    )
    return seen


def are_contradicted(readings: Sequence[Candidates]) -> NDArray[np.bool_]:
    """Tell which of n detections no people have, from their first reading and further looks; bool [n].

    Such is a head of an animal: at every scale, the landmarks of both networks disagree, and ONet sees no face.
    """
    exist = np.stack([each.scores > 0 for each in readings])
    shifts = np.where(exist, np.stack([each.shifts for each in readings]), np.nan)
    probabilities = np.stack([each.probabilities for each in readings])
    contradicted: NDArray[np.bool_] = (
        (np.nanmedian(shifts, axis=0) > MAX_SHIFT)
        & (probabilities.max(axis=0) < MIN_PROBABILITY)
        & (readings[0].scores < CONFIDENT_SCORE)
    )
    return contradicted


def _distances(
    points: NDArray[np.float32], others: NDArray[np.float32], boxes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the mean distances between points [n, 5, 2], relative to boxes [n, 4]."""
    sides = np.sqrt(boxes[:, 2] * boxes[:, 3]).clip(1e-6)
    distances: NDArray[np.float32] = np.linalg.norm(points - others, axis=2).mean(axis=1) / sides
    return distances
