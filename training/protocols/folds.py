"""Folds by person: nobody who is learnt from is tested on."""

import numpy as np
from numpy.typing import NDArray


def folds_by_person(subjects: NDArray[np.str_], folds: int) -> NDArray[np.int64]:
    """The fold [n] that each image [n] is held out in: subjects in order of their names, dealt out in turn.

    Raises:
        ValueError: there are fewer subjects than folds, or fewer than two folds.
    """
    people, indices = np.unique(subjects, return_inverse=True)
    if not 2 <= folds <= len(people):
        raise ValueError(f"folds is {folds}; {len(people)} subjects allow 2 to {len(people)}")
    dealt = indices % folds
    for fold in range(folds):
        check_apart(subjects[dealt != fold], subjects[dealt == fold])
    return dealt.astype(np.int64)


def check_apart(train: NDArray[np.str_], test: NDArray[np.str_]) -> None:
    """Make sure that nobody is on both sides.

    Raises:
        ValueError: somebody is.
    """
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(f"{', '.join(both[:5])} would be trained on and tested on ({len(both)} people in all)")
