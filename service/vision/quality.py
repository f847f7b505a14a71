"""How far a face can be trusted: the head's pose, the picture's quality, and the reasons to doubt an answer.

Everything is read from the five landmarks and from the small grey crop that the model sees anyway, which takes
a few hundredths of a millisecond a face.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.schemas import Reason
from service.vision.face import Face

SMALLEST = 20.0
"""Pixels of a box's shorter side: below it every pixel of a 48-pixel crop is more than half invented."""

MAX_YAW = 45.0
"""Degrees: beyond it one eye and half of the mouth are hidden. Roll is no reason, it is undone before."""

MIN_SHARPNESS = 0.02
"""What sharp portraits have after a blur of a tenth of the distance between the eyes (sharp ones: 0.1 to 1)."""

MIN_BRIGHTNESS, MAX_BRIGHTNESS = 0.1, 0.92
"""Mean grey: outside, shadows or highlights have swallowed the features."""

MIN_SCORE = 0.7
"""Detection score: below it, one detection in a few is no face or one that is mostly hidden."""

NOSE_DEPTH = 0.5
"""How far the nose's tip stands before the plane of eyes and mouth, in distances between the eyes."""


@dataclass(frozen=True)
class FaceQuality:
    """What was measured of one face.

    ``roll`` and ``yaw`` are degrees (see ``pose``); ``size`` pixels of the box's shorter side; ``sharpness`` 0 to
    64 and ``brightness`` 0 to 1 (see the functions of these names);
    ``unreliable_because`` is empty for a reliable face.
    """

    roll: float
    yaw: float
    size: float
    sharpness: float
    brightness: float
    unreliable_because: tuple[Reason, ...]


def measure_quality(face: Face, crop: NDArray[np.uint8], photo_size: tuple[int, int]) -> FaceQuality:
    """The quality of one face.

    Args:
        face: as found in the photo.
        crop: its grey crop, uint8 [height, width].
        photo_size: (height, width) of the photo in pixels.
    """
    roll, yaw = pose(face.landmarks)
    size = min(face.box.width, face.box.height)
    sharp, bright = sharpness(crop), brightness(crop)
    height, width = photo_size
    points = face.landmarks
    outside = bool((points < 0).any() or (points > (width, height)).any())
    signs: Sequence[tuple[Reason, bool]] = (
        ("small", size < SMALLEST),
        ("turned", abs(yaw) > MAX_YAW),
        ("cut_off", outside),
        ("blurred", sharp < MIN_SHARPNESS),
        ("dark", bright < MIN_BRIGHTNESS),
        ("bright", bright > MAX_BRIGHTNESS),
        ("uncertain", face.score < MIN_SCORE),
    )
    return FaceQuality(roll, yaw, size, sharp, bright, tuple(reason for reason, holds in signs if holds))


def pose(landmarks: NDArray[np.float32]) -> tuple[float, float]:
    """Roll (-180 to 180) and yaw (-90 to 90) of a head, in degrees, from its landmarks [5, 2].

    Roll is positive where the head is turned clockwise in the picture, yaw where it looks to the viewer's right.
    Roll is the direction of the lines through eyes and mouth. Yaw follows from how far the nose lies off the
    middle: on a head turned by yaw the eyes come nearer by its cosine, the nose moves by its sine times its
    depth. Both are estimates, yaw to about ten degrees.
    """
    left_eye, right_eye, nose, mouth_left, mouth_right = np.asarray(landmarks, np.float64)
    across = (right_eye - left_eye) + (mouth_right - mouth_left)
    length = math.hypot(*across)
    if length == 0:
        return 0.0, 0.0
    across /= length
    middle = (left_eye + right_eye + mouth_left + mouth_right) / 4
    offset = float((nose - middle) @ across)
    # Eyes on top of each other tell that the head is turned fully, not to which side by how much.
    eyes = max(float((right_eye - left_eye) @ across), 0.0)
    roll = math.degrees(math.atan2(across[1], across[0]))
    return roll, math.degrees(math.atan2(offset, NOSE_DEPTH * eyes)) if offset else 0.0


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the crop's Laplacian over the crop's own variance, 0 to 64; so contrast does not count.

    The variance of the Laplacian as a measure of focus: Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy: a comparative study", ICPR 2000.
    """
    edges = float(cv2.meanStdDev(cv2.Laplacian(crop, cv2.CV_32F))[1].item()) ** 2
    contrast = float(cv2.meanStdDev(crop)[1].item()) ** 2
    return min(edges / max(contrast, 1.0), 64.0)  # less than one grey level is noise


def brightness(crop: NDArray[np.uint8]) -> float:
    """Mean grey of the crop, 0 (black) to 1 (white)."""
    return float(cv2.mean(crop)[0]) / 255
