"""Calibration: whether predictions are right as often as their confidence says.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Predictions with a confidence in ``low``..``high``: their number, mean confidence and accuracy, 0..1."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Return the bins of equal width that are not empty.

    Args:
        confidence: Confidence of each prediction, 0..1, [n].
        correct: Whether each prediction is correct, [n].
        bins: Number of bins.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    filled = []
    for index in range(bins):
        inside = bin_of == index
        if inside.any():
            mean, accuracy = float(confidence[inside].mean()), float(correct[inside].mean())
            filled.append(Bin(index / bins, (index + 1) / bins, int(inside.sum()), mean, accuracy))
    return filled


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy over the bins."""
    total = 0.0
    for each in reliability(confidence, correct, bins):
        total += each.count / len(confidence) * abs(each.confidence - each.accuracy)
    return float(total)
