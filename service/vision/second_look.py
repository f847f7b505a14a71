"""Look at the surroundings of a box again, enlarged and turned."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.vision.alignment import AffineMatrix, invert_transform, transform_points, warp
from service.vision.decoding import Pixels
from service.vision.light import brighten
from service.vision.yunet import Detections, YuNet

MIN_SCORE = 0.1
"""The minimum score in a second look, 0..1."""

MAX_OFF_CENTER = 0.25
"""How far from the middle of a look a face may be, relative to the look's side."""

MIN_SHARE = 0.5
"""The minimum longer side of a face in a look, relative to that of the box that is looked at."""

MAX_BATCH = 16


@dataclass(frozen=True)
class Look:
    """The square around a box, ``margin`` times its longer side, that is resized to ``side`` pixels."""

    margin: float
    side: int


CLOSE_LOOK = Look(1.4, 192)
"""For faces that are small, blurred or without hair and background."""

TURNED_LOOK = Look(1.8, 128)
"""For choosing a turn. At this size, upright faces score 0.9 or more, and faces on their heads less."""


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
        found += yunet.detect_all(crops[start : start + MAX_BATCH], threshold=MIN_SCORE)
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
