"""Folds by person: nobody is in both the training and the test set."""

import numpy as np
from numpy.typing import NDArray


def folds_by_person(subjects: NDArray[np.str_], folds: int) -> NDArray[np.int64]:
    """Return the fold [n] in which each image is tested; subjects [n] are assigned to folds in turn, by name.

    Raises:
        ValueError: There are fewer subjects than folds, or fewer than two folds.
    """
    people, indices = np.unique(subjects, return_inverse=True)
    if not 2 <= folds <= len(people):
        raise ValueError(f"folds is {folds}; with {len(people)} subjects it must be 2 to {len(people)}")
    assigned = indices % folds
    for fold in range(folds):
        check_disjoint(subjects[assigned != fold], subjects[assigned == fold])
    return assigned.astype(np.int64)


def check_disjoint(train: NDArray[np.str_], test: NDArray[np.str_]) -> None:
    """Check that no subject is in both sets.

    Raises:
        ValueError: A subject is.
    """
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(f"{len(both)} subjects are in both the training and the test set: {', '.join(both[:5])}")
