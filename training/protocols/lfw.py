"""LFW: same person or not, by the cosine between the features of two faces.

Huang et al., "Labeled Faces in the Wild", University of Massachusetts 07-49 (2007).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""[images, features]."""


def pair_similarities(features: Features, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cosines [pairs] of the features that ``pairs`` [pairs, 2] names."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities: NDArray[np.float32] = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1)
    return similarities


def best_threshold(similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """The similarity from which on "same" is answered that makes most pairs right."""
    order = np.sort(similarities)
    candidates = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
    right = [((similarities >= candidate) == same).mean() for candidate in candidates]
    return float(candidates[int(np.argmax(right))])


def accuracy_at(threshold: float, similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """Share of pairs answered right, 0..1."""
    return float(((similarities >= threshold) == same).mean())


@dataclass(frozen=True)
class View1Score:
    """Accuracy 0..1 on dev-test, at the threshold that fits dev-train best."""

    pairs: int
    accuracy: float
    threshold: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class View2Score:
    """Mean accuracy 0..1 over the folds and its standard error, as the data set's authors report it.

    ``true_accepts`` is the share of matched pairs accepted where ``FALSE_ACCEPTS`` of the mismatched are.
    """

    pairs: int
    mean: float
    standard_error: float
    accuracies: list[float]
    thresholds: list[float]
    true_accepts: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


FALSE_ACCEPTS = 1e-3


def score_view2(
    similarities: NDArray[np.float32], same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> View2Score:
    """Score the pairs [n]: each fold at the threshold that fits the others best.

    Raises:
        ValueError: there is only one fold.
    """
    count = int(folds.max()) + 1
    if count < 2:
        raise ValueError("View 2 needs folds; this list has one")
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
    """Shares of mismatched and of matched pairs accepted, [points] each, as the threshold falls; both from 0 to 1.

    Pairs of equal similarity are accepted together.
    """
    order = np.argsort(-similarities, kind="stable")
    ends = np.append(np.diff(similarities[order]) != 0, True)  # the last of each run of equals
    matched = np.cumsum(same[order])[ends] / same.sum()
    mismatched = np.cumsum(~same[order])[ends] / (~same).sum()
    return np.concatenate([[0.0], mismatched]), np.concatenate([[0.0], matched])


def true_accepts_at(limit: float, similarities: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """The highest share of matched pairs accepted while no more than ``limit`` of the mismatched are."""
    mismatched, matched = roc(similarities, same)
    return float(matched[mismatched <= limit].max())
