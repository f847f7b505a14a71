"""FER+ in detail, under one rule: what is taken for what, how sure rightly, and how certain the figures are."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.datasets.ferplus import DROPPED, EMOTIONS
from training.protocols.bootstrap import Indices, Interval, interval
from training.protocols.calibration import Bin, reliability

NO_FACE = len(EMOTIONS)
"""The column of the confusion matrix for images in which no face was found."""


@dataclass(frozen=True)
class Breakdown:
    """Counts and intervals of one rule.

    ``confusion`` [8, 9]: rows by label, columns by answer, the last for no face. ``accuracy``, ``macro_recall``
    and ``macro_f1`` are 95 % intervals. ``reliability`` is of the images in which a face was found.
    """

    confusion: list[list[int]]
    reliability: list[Bin]
    accuracy: Interval
    macro_recall: Interval
    macro_f1: Interval

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def break_down(probabilities: ArrayLike, labels: NDArray[np.int64], answered: ArrayLike) -> Breakdown:
    """Break down probabilities [n, 8] against labels [n] (``DROPPED`` leaves a row out).

    Args:
        answered: [n], False where no face was found.
    """
    rows = labels != DROPPED
    known = np.asarray(answered, bool)[rows]
    shares, labels = np.asarray(probabilities, np.float64)[rows], labels[rows]
    predicted = np.where(known, shares.argmax(axis=1), NO_FACE)

    def matrix(drawn: Indices) -> NDArray[np.int64]:
        return confusion_matrix(labels[drawn], predicted[drawn])

    return Breakdown(
        confusion=confusion_matrix(labels, predicted).tolist(),
        reliability=reliability(shares[known].max(axis=1), (predicted == labels)[known]),
        accuracy=interval(len(labels), lambda drawn: float((labels == predicted)[drawn].mean())),
        macro_recall=interval(len(labels), lambda drawn: macro_recall(matrix(drawn))),
        macro_f1=interval(len(labels), lambda drawn: macro_f1(matrix(drawn))),
    )


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """[8, 9] of counts: rows by label, columns by answer (``NO_FACE`` is the last)."""
    width = len(EMOTIONS) + 1
    counts: NDArray[np.int64] = np.bincount(labels * width + predicted, minlength=len(EMOTIONS) * width)
    return counts.reshape(len(EMOTIONS), width)


def macro_recall(confusion: NDArray[np.int64]) -> float:
    """Mean recall over the emotions that occur."""
    of_class = confusion.sum(axis=1)
    present = of_class > 0
    return float((np.diag(confusion)[present] / of_class[present]).mean())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the emotions that occur."""
    of_class, answers = confusion.sum(axis=1), confusion[:, : len(EMOTIONS)].sum(axis=0)
    present = of_class > 0
    return float((2 * np.diag(confusion)[present] / (of_class + answers)[present]).mean())
