"""FER+ scores under two rules: ``majority``, that of its authors, and ``argmax``."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.datasets.ferplus import (
    DROPPED,
    EMOTIONS,
    Votes,
    argmax_labels,
    majority_labels,
)
from training.datasets.prepared import PreparedSet
from training.protocols.calibration import calibration_error

NO_FACE = -1
"""Prediction for an image without a found face; it counts as wrong."""


@dataclass(frozen=True)
class RuleScore:
    """Scores under one rule, 0..1; ``calibration_error`` is the ECE over 15 bins."""

    rows: int
    accuracy: float
    macro_recall: float
    macro_f1: float
    recall: dict[str, float]
    calibration_error: float


@dataclass(frozen=True)
class FerPlusScore:
    """Scores under both rules; ``unanswered`` is the number of images without a found face."""

    majority: RuleScore
    argmax: RuleScore
    unanswered: int


def score(probabilities: ArrayLike, votes: Votes, found: ArrayLike | None = None) -> FerPlusScore:
    """Score predictions under both rules.

    Args:
        probabilities: Predictions, [n, 8].
        votes: Votes, [n, 10].
        found: Whether a face was found, [n]; without one the prediction counts as wrong. None: in all images.
    """
    probabilities = np.asarray(probabilities, np.float64)
    has_face = np.ones(len(votes), bool) if found is None else np.asarray(found, bool)
    return FerPlusScore(
        majority=_score(probabilities, majority_labels(votes), has_face),
        argmax=_score(probabilities, argmax_labels(votes), has_face),
        unanswered=int((~has_face).sum()),
    )


def score_prepared(
    probabilities: ArrayLike, prepared: PreparedSet, rows: NDArray[np.bool_] | None = None
) -> FerPlusScore:
    """Score probabilities [n, 8] of a prepared split, or of some of its rows [n]."""
    chosen = np.ones(len(prepared.crops), bool) if rows is None else rows
    return score(np.asarray(probabilities)[chosen], prepared.arrays["votes"][chosen], prepared.aligned[chosen])


def _score(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], has_face: NDArray[np.bool_]
) -> RuleScore:
    rows = labels != DROPPED
    labels, has_face, probabilities = labels[rows], has_face[rows], probabilities[rows]
    predicted = np.where(has_face, probabilities.argmax(axis=1), NO_FACE)
    correct = predicted == labels
    recall, f1 = {}, []
    for index, emotion in enumerate(EMOTIONS):
        of_class = labels == index
        if not of_class.any():
            continue
        hits = (correct & of_class).sum()
        recall[emotion] = float(hits / of_class.sum())
        f1.append(2 * hits / (of_class.sum() + (predicted == index).sum()))
    return RuleScore(
        rows=len(labels),
        accuracy=float(correct.mean()),
        macro_recall=float(np.mean(list(recall.values()))),
        macro_f1=float(np.mean(f1)),
        recall=recall,
        calibration_error=calibration_error(probabilities[has_face].max(axis=1), correct[has_face]),
    )
