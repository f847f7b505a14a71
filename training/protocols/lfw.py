"""LFW scores: same person or not, by the cosine between the features of two faces.

Huang et al., "Labeled Faces in the Wild", University of Massachusetts 07-49 (2007).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""[images, features]."""


def pair_similarities(features: Features, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the cosine [pairs] between the features of each pair, given as indices [pairs, 2]."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities: NDArray[np.float32] = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1)
    return similarities


def best_threshold(similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """Return the similarity from which a pair counts as the same person, chosen for the highest accuracy."""
    order = np.sort(similarities)
    candidates = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
    right = [((similarities >= candidate) == same).mean() for candidate in candidates]
    return float(candidates[int(np.argmax(right))])


def accuracy_at(threshold: float, similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """Return the accuracy, 0..1, at a threshold."""
    return float(((similarities >= threshold) == same).mean())


@dataclass(frozen=True)
class View1Score:
    """Accuracy 0..1 on dev-test, at the best threshold of dev-train."""

    pairs: int
    accuracy: float
    threshold: float


@dataclass(frozen=True)
class View2Score:
    """Mean accuracy 0..1 over the folds and its standard error, as the data set's authors report it.

    ``true_accepts`` is the true accept rate at a false accept rate of at most ``FALSE_ACCEPTS``.
    """

    pairs: int
    mean: float
    standard_error: float
    accuracies: list[float]
    thresholds: list[float]
    true_accepts: float


FALSE_ACCEPTS = 1e-3


def score_view2(
    similarities: NDArray[np.float32], same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> View2Score:
    """Score pairs [n], each fold at the best threshold of the others.

    Raises:
        ValueError: There is only one fold.
    """
    count = int(folds.max()) + 1
    if count < 2:
        raise ValueError("View 2 needs at least 2 folds; this list has 1")
    thresholds = [best_threshold(similarities[folds != fold], same[folds != fold]) for fold in range(count)]
    accuracies = [
        accuracy_at(threshold, similarities[folds == fold], same[folds == fold])
        for fold, threshold in enumerate(thresholds)
    ]
    return View2Score(
        pairs=len(same),
        mean=float(np.mean(accuracies)),
        standard_error=float(np.std(accuracies, ddof=1) / np.sqrt(count)),
        accuracies=accuracies,
        thresholds=thresholds,
        true_accepts=true_accepts_at(FALSE_ACCEPTS, similarities, same),
    )


def roc(
    similarities: NDArray[np.float32], same: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true accept rates, [points] each, as the threshold falls; both rise from 0 to 1.

    Pairs of equal similarity are accepted together.
    """
    order = np.argsort(-similarities, kind="stable")
    ends = np.append(np.diff(similarities[order]) != 0, True)  # the last of each run of equals
    matched = np.cumsum(same[order])[ends] / same.sum()
    mismatched = np.cumsum(~same[order])[ends] / (~same).sum()
    return np.concatenate([[0.0], mismatched]), np.concatenate([[0.0], matched])


def true_accepts_at(limit: float, similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """Return the highest true accept rate at a false accept rate of at most ``limit``."""
    mismatched, matched = roc(similarities, same)
    return float(matched[mismatched <= limit].max())
