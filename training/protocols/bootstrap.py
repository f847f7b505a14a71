"""Confidence intervals by the bootstrap.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
SEED = 20

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """Bounds of the middle 95 % of the resampled values."""

    low: float
    high: float


def interval(rows: int, statistic: Callable[[Indices], float], *, resamples: int = RESAMPLES) -> Interval:
    """Return the interval of a statistic over rows drawn with replacement, with a fixed seed.

    Args:
        rows: Number of rows.
        statistic: Function of the indices [rows] of the drawn rows.
        resamples: Number of draws.
    """
    random = np.random.default_rng(SEED)
    return _middle([statistic(random.integers(0, rows, rows)) for _ in range(resamples)])


def interval_over_runs(values: NDArray[np.float64], *, resamples: int = RESAMPLES) -> Interval:
    """Return the interval of the mean of ``values`` [runs, rows], over rows and over runs with other seeds.

    All runs score the same rows, so a drawn row counts in every drawn run.
    """
    runs, rows = values.shape
    random = np.random.default_rng(SEED)
    drawn = []
    for _ in range(resamples):
        run_weights = np.bincount(random.integers(0, runs, runs), minlength=runs) / runs
        drawn.append(float((run_weights @ values)[random.integers(0, rows, rows)].mean()))
    return _middle(drawn)


def _middle(values: list[float]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
