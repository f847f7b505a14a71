"""Measure how reliable an answer for a face is: the head's pose, the image's quality, and the reasons for doubt.

Everything is measured on the five landmarks and on a small gray crop, which takes a few hundredths of a
millisecond per face. It is the crop that the model sees, unless the model wants crops of another size or in color.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.schemas import Reason
from service.vision.face import Face

QUALITY_SIZE = (48, 48)
"""(height, width) of the aligned gray crop that a face is judged by."""

MIN_SIZE = 20.0
"""Pixels of a box's shorter side. Below, more than half of a 48-pixel crop is interpolated."""

MAX_YAW = 45.0
"""Degrees. Beyond, one eye and half of the mouth are hidden. Roll has no limit, because alignment undoes it."""

MIN_SHARPNESS = 0.02
"""Sharp portraits measure 0.1 to 1; blurred by a tenth of the distance between the eyes, they fall to this."""

MIN_BRIGHTNESS, MAX_BRIGHTNESS = 0.1, 0.92
"""Mean gray value. Outside, features are lost in shadows or highlights."""

MIN_SCORE = 0.7
"""Detection score. Below, one in a few detections is not a face or is mostly hidden."""

MIN_MARGIN = 0.1
"""Difference of the two highest probabilities. Below, the second emotion is nearly as likely as the first."""

FEATURES = ((0.17, 0.28, 0.44, 0.48), (0.54, 0.28, 0.82, 0.48), (0.28, 0.68, 0.71, 0.9))
"""Where eyes and mouth are in a crop: left, top, right and bottom as fractions of its sides."""

MIN_CONTRAST, MIN_EDGES = 0.25, 0.5
"""Contrast of an eye or the mouth, and strength of its horizontal edges, relative to the whole crop. Of the faces
of FER+, 3 % have less, some of them with a hand or hair over the feature."""

MAX_HIDDEN = 0.6
"""ONet's probability that an eye or the mouth is hidden. 9 % of FER+ have more, three quarters of them with hands,
sunglasses, hair or deep shadow over a feature or in profile; and 2 % of portraits. Of portraits drawn over, 97 %
have it with a mask, scarf, a hand over an eye, a bar over the eyes or a half of one color; about 85 % with
sunglasses, fingers over the mouth or a half of noise; 60 % with a picture before it, 30 % with a fist."""

NOSE_DEPTH = 0.5
"""Distance of the tip of the nose from the plane of eyes and mouth, relative to the distance between the eyes."""


@dataclass(frozen=True)
class FaceQuality:
    """The measurements of one face.

    ``roll`` and ``yaw`` are in degrees (see ``pose``), and ``size`` is the shorter side of the box in pixels;
    ``sharpness`` is 0..64 and ``brightness`` 0..1 (see the functions of these names). ``unreliable_because`` is
    empty for a reliable face.
    """

    roll: float
    yaw: float
    size: float
    sharpness: float
    brightness: float
    unreliable_because: tuple[Reason, ...]


def measure_quality(face: Face, crop: NDArray[np.uint8], photo_size: tuple[int, int]) -> FaceQuality:
    """Measure the quality of one face.

    Args:
        face: The face, in pixels of the photo.
        crop: Its aligned gray crop, uint8 [*``QUALITY_SIZE``].
        photo_size: (height, width) of the photo in pixels.
    """
    roll, yaw = pose(face.landmarks)
    size = min(face.box.width, face.box.height)
    sharp, bright = sharpness(crop), brightness(crop)
    height, width = photo_size
    points = face.landmarks
    is_blurred = sharp < MIN_SHARPNESS
    is_cut_off = bool((points < 0).any() or (points > (width, height)).any())
    tests: Sequence[tuple[Reason, bool]] = (
        ("small", size < MIN_SIZE),
        ("turned", abs(yaw) > MAX_YAW),
        ("cut_off", is_cut_off),
        ("blurred", is_blurred),
        ("dark", bright < MIN_BRIGHTNESS),
        ("bright", bright > MAX_BRIGHTNESS),
        ("uncertain", face.score < MIN_SCORE),
        ("occluded", face.hidden > MAX_HIDDEN or (not is_blurred and is_occluded(crop))),
    )
    return FaceQuality(roll, yaw, size, sharp, bright, tuple(reason for reason, applies in tests if applies))


def pose(landmarks: NDArray[np.float32]) -> tuple[float, float]:
    """Estimate a head's roll (-180..180) and yaw (-90..90) in degrees from its landmarks [5, 2].

    Roll is the direction of the lines through the eyes and through the corners of the mouth; it is positive if the
    head leans clockwise in the image. Yaw is positive if the head looks to the viewer's right. It follows from how
    far the nose is off the middle: yaw shortens the distance between the eyes by its cosine, and moves the nose by
    its sine times ``NOSE_DEPTH``. Yaw is accurate to about ten degrees.
    """
    left_eye, right_eye, nose, mouth_left, mouth_right = np.asarray(landmarks, np.float64)
    across = (right_eye - left_eye) + (mouth_right - mouth_left)
    length = math.hypot(*across)
    if length == 0:
        return 0.0, 0.0
    across /= length
    middle = (left_eye + right_eye + mouth_left + mouth_right) / 4
    offset = float((nose - middle) @ across)
    eye_distance = max(float((right_eye - left_eye) @ across), 0.0)  # 0: fully turned, to the side of the offset
    roll = math.degrees(math.atan2(across[1], across[0]))
    return roll, math.degrees(math.atan2(offset, NOSE_DEPTH * eye_distance)) if offset else 0.0


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Divide the variance of the crop's Laplacian by the crop's variance, so that contrast does not count; 0..64.

    The variance of the Laplacian is a measure of focus: Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy: a comparative study", ICPR 2000.
    """
    edges = float(cv2.meanStdDev(cv2.Laplacian(crop, cv2.CV_32F))[1].item()) ** 2
    contrast = float(cv2.meanStdDev(crop)[1].item()) ** 2
    return min(edges / max(contrast, 1.0), 64.0)  # a variance below one gray level is noise


def brightness(crop: NDArray[np.uint8]) -> float:
    """Return the mean gray value of the crop, 0 (black) to 1 (white)."""
    return float(cv2.mean(crop)[0]) / 255


def is_occluded(crop: NDArray[np.uint8]) -> bool:
    """Tell whether an eye or the mouth is hidden, because the aligned crop shows nothing where it must be.

    Eyes and mouths are darker than the skin around them and mostly horizontal. A hand or an erased part has less
    contrast, or none of these edges; ONet overlooks half of the fists and a few of the fingers that this finds.
    """
    height, width = crop.shape
    edges = np.abs(cv2.Sobel(crop, cv2.CV_32F, 0, 1))
    contrast, edge_strength = max(float(crop.std()), 1.0), max(float(edges.mean()), 1.0)
    for left, top, right, bottom in FEATURES:
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        if (
            crop[rows, columns].std() < MIN_CONTRAST * contrast
            or edges[rows, columns].mean() < MIN_EDGES * edge_strength
        ):
            return True
    return False


def is_ambiguous(probabilities: Iterable[float]) -> bool:
    """Tell whether the two highest probabilities differ by less than ``MIN_MARGIN``."""
    highest = sorted(probabilities)[-2:]
    return len(highest) == 2 and highest[1] - highest[0] < MIN_MARGIN
