"""Whether a network is right as often as it says.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in ``low``..``high``: how many, how sure and how often right, 0..1."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """The bins of equal width, of those that hold an answer.

    Args:
        confidence: of each answer [n], 0..1.
        right: whether it was [n].
        bins: how many.
    """
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            sure, correct = float(confidence[inside].mean()), float(right[inside].mean())
            found.append(Bin(place / bins, (place + 1) / bins, int(inside.sum()), sure, correct))
    return found


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, averaged over bins of confidence."""
    total = 0.0
    for each in reliability(confidence, right, bins):
        total += each.count / len(confidence) * abs(each.confidence - each.accuracy)
    return float(total)
