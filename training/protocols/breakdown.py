"""FER+ scores in detail, under one rule: confusion matrix, reliability and confidence intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.datasets.ferplus import DROPPED, EMOTIONS
from training.protocols.bootstrap import Indices, Interval, interval
from training.protocols.calibration import Bin, reliability

NO_FACE = len(EMOTIONS)
"""Column of the confusion matrix for images without a found face."""


@dataclass(frozen=True)
class Breakdown:
    """Detailed scores under one rule.

    Attributes:
        confusion: Counts [8, 9]: rows by label, columns by prediction, the last one for no face.
        reliability: Bins of the images with a found face.
        accuracy: 95 % interval.
        macro_recall: 95 % interval.
        macro_f1: 95 % interval.
    """

    confusion: list[list[int]]
    reliability: list[Bin]
    accuracy: Interval
    macro_recall: Interval
    macro_f1: Interval


def break_down(probabilities: ArrayLike, labels: NDArray[np.int64], found: ArrayLike) -> Breakdown:
    """Score predictions in detail.

    Args:
        probabilities: Predictions, [n, 8].
        labels: Labels, [n]; rows with ``DROPPED`` are left out.
        found: Whether a face was found, [n].
    """
    rows = labels != DROPPED
    has_face = np.asarray(found, bool)[rows]
    kept, labels = np.asarray(probabilities, np.float64)[rows], labels[rows]
    predicted = np.where(has_face, kept.argmax(axis=1), NO_FACE)

    def matrix(drawn: Indices) -> NDArray[np.int64]:
        return confusion_matrix(labels[drawn], predicted[drawn])

    return Breakdown(
        confusion=confusion_matrix(labels, predicted).tolist(),
        reliability=reliability(kept[has_face].max(axis=1), (predicted == labels)[has_face]),
        accuracy=interval(len(labels), lambda drawn: float((labels == predicted)[drawn].mean())),
        macro_recall=interval(len(labels), lambda drawn: macro_recall(matrix(drawn))),
        macro_f1=interval(len(labels), lambda drawn: macro_f1(matrix(drawn))),
    )


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count [8, 9]: rows by label, columns by prediction, the last one being ``NO_FACE``."""
    width = len(EMOTIONS) + 1
    counts: NDArray[np.int64] = np.bincount(labels * width + predicted, minlength=len(EMOTIONS) * width)
    return counts.reshape(len(EMOTIONS), width)


def macro_recall(confusion: NDArray[np.int64]) -> float:
    """Return the mean recall of the emotions that occur."""
    labels = confusion.sum(axis=1)
    present = labels > 0
    return float((np.diag(confusion)[present] / labels[present]).mean())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 of the emotions that occur."""
    labels, predictions = confusion.sum(axis=1), confusion[:, : len(EMOTIONS)].sum(axis=0)
    present = labels > 0
    return float((2 * np.diag(confusion)[present] / (labels + predictions)[present]).mean())
