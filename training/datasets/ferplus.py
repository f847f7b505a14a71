"""FER+: the images of FER2013 with the votes of ten people each.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution",
ICMI 2016. Layout: ``fer2013new.csv`` beside ``FER2013Train/`` and ``FER2013Valid/`` with one PNG a row.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COLUMNS = (*EMOTIONS, "unknown", "NF")
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
SPLITS = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}

DROPPED = -1
"""The label of a row that a rule leaves out."""

Votes = NDArray[np.int64]
"""[rows, 10], in the order of ``COLUMNS``."""


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of one split that have an image, and how many have none."""

    paths: list[Path]
    votes: Votes
    missing: int


def read_split(folder: Path, split: str) -> Split:
    """Read the rows of "train", "valid" or "test".

    Raises:
        ValueError: the table has other columns, a vote is no number, or no image of the split is there.
        FileNotFoundError: the table is not there.
    """
    table = folder / "fer2013new.csv"
    usage = SPLITS[split]
    paths: list[Path] = []
    votes: list[list[int]] = []
    missing = 0
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        wanted = {"Usage", "Image name", *COLUMNS}
        lacking = wanted - set(reader.fieldnames or ())
        if lacking:
            raise ValueError(f"{table} lacks the columns {sorted(lacking)}; it has {reader.fieldnames}")
        for line, row in enumerate(reader, start=2):
            if row["Usage"] != usage:
                continue
            name = row["Image name"].strip()
            path = folder / FOLDERS[usage] / name
            if not name or not path.is_file():
                missing += 1
                continue
            try:
                votes.append([int(row[column]) for column in COLUMNS])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{table}, line {line}: a vote is no whole number ({error})") from error
            paths.append(path)
    if not paths:
        raise ValueError(f"{folder / FOLDERS[usage]} holds no image that {table} names")
    return Split(paths, np.array(votes, np.int64), missing)


def majority_labels(votes: Votes) -> NDArray[np.int64]:
    """Labels [rows] by the rule of the FER+ authors: single votes do not count, and the top must exceed half.

    ``DROPPED`` where it does not, or where it is not one of the eight emotions.
    """
    counted = np.where(votes > 1, votes, 0)
    top = counted.argmax(axis=1)
    kept = (2 * counted.max(axis=1) > counted.sum(axis=1)) & (top < len(EMOTIONS))
    return np.where(kept, top, DROPPED)


def argmax_labels(votes: Votes) -> NDArray[np.int64]:
    """Labels [rows] by the top vote of all ten columns; ``DROPPED`` where that is unknown or no face."""
    top = votes.argmax(axis=1)
    return np.where(top < len(EMOTIONS), top, DROPPED)


def vote_distributions(votes: Votes) -> NDArray[np.float32]:
    """[rows, 8], the share of each emotion; single votes do not count. All zero where nothing is left."""
    counted = np.where(votes > 1, votes, 0)[:, : len(EMOTIONS)].astype(np.float32)
    total = counted.sum(axis=1, keepdims=True)
    shares: NDArray[np.float32] = np.divide(counted, total, out=np.zeros_like(counted), where=total > 0)
    return shares
