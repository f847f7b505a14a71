"""Labeled Faces in the Wild, View 1: pairs for choosing models.

Huang et al., "Labeled Faces in the Wild", University of Massachusetts 07-49 (2007). Layout:
``<Name>/<Name>_0001.jpg`` beside ``pairsDevTrain.txt`` and ``pairsDevTest.txt``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Pairs:
    """Indices into ``paths`` [pairs, 2], and whether both show the same person [pairs]."""

    paths: list[Path]
    indices: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_pairs(folder: Path, file: str) -> Pairs:
    """Read a pair list: a count, then that many matched lines, then as many mismatched.

    Raises:
        ValueError: a line has neither three nor four columns.
        FileNotFoundError: the list or an image of it is not there.
    """
    places: dict[Path, int] = {}
    indices: list[tuple[int, int]] = []
    same: list[bool] = []
    for number, line in enumerate((folder / file).read_text().splitlines()[1:], start=2):
        columns = line.split()
        match columns:
            case [name, first, second]:
                pair = (name, first), (name, second)
            case [name, first, other, second]:
                pair = (name, first), (other, second)
            case _:
                raise ValueError(
                    f"{folder / file}, line {number}: {line!r} has {len(columns)} columns, not 3 or 4"
                )
        images = [folder / name / f"{name}_{int(index):04d}.jpg" for name, index in pair]
        for image in images:
            if not image.is_file():
                raise FileNotFoundError(f"{folder / file}, line {number} names {image}, which is not there")
        left, right = (places.setdefault(image, len(places)) for image in images)
        indices.append((left, right))
        same.append(len(columns) == 3)
    return Pairs(list(places), np.array(indices, np.int64), np.array(same, bool))
