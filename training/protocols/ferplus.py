"""FER+ under both rules: ``majority`` (its authors' own) and ``argmax``."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.datasets.ferplus import (
    DROPPED,
    EMOTIONS,
    Votes,
    argmax_labels,
    majority_labels,
    vote_distributions,
)
from training.protocols.calibration import calibration_error

NO_ANSWER = -1
"""Predicted where no face was found; counts as wrong."""


@dataclass(frozen=True)
class RuleScore:
    """Scores under one rule, 0..1; ``calibration_error`` is the ECE over 15 bins of confidence."""

    rows: int
    accuracy: float
    macro_recall: float
    macro_f1: float
    recall: dict[str, float]
    calibration_error: float


@dataclass(frozen=True)
class FerPlusScore:
    """Scores under both rules, and over how many images no face was found."""

    majority: RuleScore
    argmax: RuleScore
    unanswered: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def score(probabilities: ArrayLike, votes: Votes, answered: ArrayLike | None = None) -> FerPlusScore:
    """Score probabilities [n, 8] against votes [n, 10].

    Args:
        answered: [n], False where no face was found: whatever stands in that row counts as wrong.
    """
    probabilities = np.asarray(probabilities, np.float64)
    known = np.ones(len(votes), bool) if answered is None else np.asarray(answered, bool)
    return FerPlusScore(
        majority=_score(probabilities, majority_labels(votes), known),
        argmax=_score(probabilities, argmax_labels(votes), known),
        unanswered=int((~known).sum()),
    )


def _score(probabilities: NDArray[np.float64], labels: NDArray[np.int64], known: NDArray[np.bool_]) -> RuleScore:
    rows = labels != DROPPED
    labels, known, probabilities = labels[rows], known[rows], probabilities[rows]
    predicted = np.where(known, probabilities.argmax(axis=1), NO_ANSWER)
    right = predicted == labels
    recall, f1 = {}, []
    for index, emotion in enumerate(EMOTIONS):
        of_class = labels == index
        if not of_class.any():
            continue
        hits = (right & of_class).sum()
        recall[emotion] = float(hits / of_class.sum())
        f1.append(2 * hits / (of_class.sum() + (predicted == index).sum()))
    return RuleScore(
        rows=len(labels),
        accuracy=float(right.mean()),
        macro_recall=float(np.mean(list(recall.values()))),
        macro_f1=float(np.mean(f1)),
        recall=recall,
        calibration_error=calibration_error(probabilities[known].max(axis=1), right[known]),
    )


def negative_log_likelihood(probabilities: ArrayLike, votes: Votes) -> float:
    """Mean cross-entropy against the vote distributions, in nats, over rows that have one."""
    targets = vote_distributions(votes)
    rows = targets.sum(axis=1) > 0
    logarithms = np.log(np.clip(np.asarray(probabilities)[rows], 1e-12, None))
    return float(-(targets[rows] * logarithms).sum(axis=1).mean())
