"""Faces as the pipeline finds them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""The order of a face's landmarks; left and right are the viewer's."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright photo; (x, y) is its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height

    def scaled(self, factor: float) -> "Box":
        """Return the box in pixels of a photo that is larger by a factor."""
        return Box(self.x * factor, self.y * factor, self.width * factor, self.height * factor)


@dataclass(frozen=True, eq=False)
class Face:
    """A face: its box, its detection score (0..1) and five landmarks.

    ``landmarks`` is float32 [5, 2], x and y in pixels of the upright photo, in the order of ``LANDMARK_NAMES``.
    ``hidden`` is the probability that an eye or the mouth is hidden, 0..1.
    """

    box: Box
    score: float
    landmarks: NDArray[np.float32]
    hidden: float = 0.0
