"""Intervals by the bootstrap: how far a figure would have moved had other rows been drawn.

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
    """Bounds of the middle 95 % of the resampled figures."""

    low: float
    high: float


def interval(rows: int, statistic: Callable[[Indices], float], *, resamples: int = RESAMPLES) -> Interval:
    """The interval of a statistic of rows drawn with replacement; the same at every call.

    Args:
        rows: how many there are.
        statistic: of the rows [rows] that were drawn.
        resamples: how often to draw.
    """
    random = np.random.default_rng(SEED)
    return _middle([statistic(random.integers(0, rows, rows)) for _ in range(resamples)])


def interval_over_runs(values: NDArray[np.float64], *, resamples: int = RESAMPLES) -> Interval:
    """The interval of the mean of [runs, rows], over both: another draw of rows, and of runs with other seeds.

    The runs share their rows, so a drawn row counts in every drawn run.
    """
    runs, rows = values.shape
    random = np.random.default_rng(SEED)
    drawn = []
    for _ in range(resamples):
        of_runs = np.bincount(random.integers(0, runs, runs), minlength=runs) / runs
        drawn.append(float((of_runs @ values)[random.integers(0, rows, rows)].mean()))
    return _middle(drawn)


def _middle(values: list[float]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
