"""LFW View 1: same person or not, by the cosine between the features of two faces."""

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
