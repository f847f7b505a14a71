"""Labeled Faces in the Wild: pairs of photos of the same person or of two people.

Huang et al., "Labeled Faces in the Wild", University of Massachusetts 07-49 (2007). Layout:
``<Name>/<Name>_0001.jpg`` and, inside that folder or beside it, ``pairsDevTrain.txt`` and ``pairsDevTest.txt``
(View 1, for choosing models) and ``pairs.txt`` (View 2, ten folds, for reporting).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAIR_LISTS = {"dev-train": "pairsDevTrain.txt", "dev-test": "pairsDevTest.txt", "view2": "pairs.txt"}
"""Pair lists by the name of the prepared set that each becomes."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images.

    Attributes:
        paths: Image files.
        indices: Indices into ``paths``, [pairs, 2].
        same: Whether both images show the same person, [pairs].
        folds: Fold of each pair, [pairs].
    """

    paths: list[Path]
    indices: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


def find_list(folder: Path, file: str) -> Path | None:
    """Return the path of a pair list inside the folder or beside it; None if there is none."""
    return next((path for path in (folder / file, folder.resolve().parent / file) if path.is_file()), None)


def read_pairs(folder: Path, file: str) -> Pairs:
    """Read a pair list: a count, then as many matched pairs, then as many mismatched ones.

    If the first line has two numbers, the number of folds and the count, there are as many pairs in each fold.

    Raises:
        ValueError: A line has neither three nor four columns, or the number of lines does not match the first.
        FileNotFoundError: The list or one of its images does not exist.
    """
    places: dict[Path, int] = {}
    indices: list[tuple[int, int]] = []
    same: list[bool] = []
    path = find_list(folder, file)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {file}, and there is none beside it")
    first_line, *lines = path.read_text().splitlines() or [""]
    folds, count = _read_counts(path, first_line)
    for number, line in enumerate(lines, start=2):
        columns = line.split()
        match columns:
            case [name, first, second]:
                pair = (name, first), (name, second)
            case [name, first, other, second]:
                pair = (name, first), (other, second)
            case _:
                raise ValueError(f"{path}, line {number}: {line!r} has {len(columns)} columns; expected 3 or 4")
        images = [folder / name / f"{name}_{int(index):04d}.jpg" for name, index in pair]
        for image in images:
            if not image.is_file():
                raise FileNotFoundError(f"{image}, named in {path}, line {number}, does not exist")
        left, right = (places.setdefault(image, len(places)) for image in images)
        indices.append((left, right))
        same.append(len(columns) == 3)
    expected = np.tile(np.repeat([True, False], count), folds)
    if same != expected.tolist():
        raise ValueError(
            f"{path} has {sum(same):,} matched among {len(same):,} pairs, or has them out of order; "
            f"its first line promises {folds} x ({count:,} matched, then {count:,} mismatched)"
        )
    fold_of_pair = np.repeat(np.arange(folds), 2 * count)
    return Pairs(list(places), np.array(indices, np.int64), np.array(same, bool), fold_of_pair)


def _read_counts(path: Path, line: str) -> tuple[int, int]:
    """Return the number of folds and of matched pairs in each."""
    try:
        *folds, count = (int(part) for part in line.split())
    except ValueError:
        raise ValueError(f"{path} starts with {line!r}; expected a count, or folds and a count") from None
    return (folds[0] if folds else 1), count
