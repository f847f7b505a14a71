"""FER+: the images of FER2013, each with the votes of ten people.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label Distribution",
ICMI 2016. Layout: ``fer2013new.csv`` and either folders of PNG files, ``FER2013Train/`` and ``FER2013Valid/``, or
Kaggle's ``fer2013.csv``, which has the same rows in the same order.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.fer2013 import PIXELS_TABLE, read_pixel_rows
from training.datasets.images import EncodedImage, PixelImage

TABLE = "fer2013new.csv"

EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COLUMNS = (*EMOTIONS, "unknown", "NF")
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
SPLITS = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}

DROPPED = -1
"""Label of a row that a rule leaves out."""

Votes = NDArray[np.int64]
"""Votes [rows, 10], in the order of ``COLUMNS``."""


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split with their votes, and the number of rows without an image."""

    images: Sequence[EncodedImage]
    votes: Votes
    missing: int


def read_split(folder: Path, split: str) -> Split:
    """Read the rows of "train", "valid" or "test".

    The images come from the split's folder or, if it does not exist, from Kaggle's table.

    Raises:
        ValueError: A table has a column missing, a vote is not a number, the two tables do not match, or the split
            has no images.
        FileNotFoundError: The table does not exist.
    """
    table = folder / TABLE
    usage = SPLITS[split]
    from_pixels = not (folder / FOLDERS[usage]).is_dir() and (folder / PIXELS_TABLE).is_file()
    found = _images_in_table(folder, usage) if from_pixels else _images_in_folder(folder, usage)
    images: list[EncodedImage] = []
    votes: list[list[int]] = []
    missing = 0
    for line, row, image in found:
        if image is None:
            missing += 1
            continue
        try:
            votes.append([int(row[column]) for column in COLUMNS])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{table}, line {line}: a vote is not a whole number ({error})") from error
        images.append(image)
    if not images:
        place = folder / (PIXELS_TABLE if from_pixels else FOLDERS[usage])
        raise ValueError(f"{place} holds none of the images in {table}")
    return Split(images, np.array(votes, np.int64), missing)


Row = dict[str, str]


def _rows(table: Path) -> Iterator[tuple[int, Row]]:
    """Read the rows with their line numbers."""
    with table.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        reader = csv.DictReader(file)
        missing = {"Usage", "Image name", *COLUMNS} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table} has no columns {sorted(missing)}; it has {reader.fieldnames}")
        yield from enumerate(reader, start=2)


def _images_in_folder(folder: Path, usage: str) -> Iterator[tuple[int, Row, EncodedImage | None]]:
    for line, row in _rows(folder / TABLE):
        if row["Usage"] == usage:
            name = row["Image name"].strip()
            path = folder / FOLDERS[usage] / name
            yield line, row, path if name and path.is_file() else None


def _images_in_table(folder: Path, usage: str) -> Iterator[tuple[int, Row, EncodedImage | None]]:
    """Leave out rows without an image name, as FER+'s own script does."""
    pixels = read_pixel_rows(folder / PIXELS_TABLE)
    line = 1
    for line, row in _rows(folder / TABLE):
        other = next(pixels, None)
        if other is None or other.usage != row["Usage"]:
            counterpart = "ends before it" if other is None else f"has {other.usage!r} there"
            raise ValueError(
                f"the tables do not match: {folder / TABLE}, line {line} is {row['Usage']!r}, "
                f"but {PIXELS_TABLE} {counterpart}"
            )
        if row["Usage"] == usage:
            name = row["Image name"].strip()
            yield line, row, PixelImage(name, other.decode()) if name else None
    if next(pixels, None) is not None:
        raise ValueError(
            f"the tables do not match: {folder / PIXELS_TABLE} has more rows than the {line - 1:,} of {TABLE}"
        )


def majority_labels(votes: Votes) -> NDArray[np.int64]:
    """Return labels [rows] by the rule of FER+'s authors: ignore single votes, then more than half must agree.

    A row is ``DROPPED`` if there is no such majority, or if it is not for one of the eight emotions.
    """
    counted = np.where(votes > 1, votes, 0)
    top = counted.argmax(axis=1)
    kept = (2 * counted.max(axis=1) > counted.sum(axis=1)) & (top < len(EMOTIONS))
    return np.where(kept, top, DROPPED)


def argmax_labels(votes: Votes) -> NDArray[np.int64]:
    """Return labels [rows] by the most votes of all ten columns; ``DROPPED`` for unknown and no face."""
    top = votes.argmax(axis=1)
    return np.where(top < len(EMOTIONS), top, DROPPED)


def vote_distributions(votes: Votes) -> NDArray[np.float32]:
    """Return each emotion's share of the votes [rows, 8], without single votes; all zero if none are left."""
    counted = np.where(votes > 1, votes, 0)[:, : len(EMOTIONS)].astype(np.float32)
    total = counted.sum(axis=1, keepdims=True)
    shares: NDArray[np.float32] = np.divide(counted, total, out=np.zeros_like(counted), where=total > 0)
    return shares


def training_rows(votes: Votes) -> NDArray[np.bool_]:
    """Return which images to train on, [rows]: not those that most took for no face or no known emotion."""
    rows: NDArray[np.bool_] = (argmax_labels(votes) != DROPPED) & (vote_distributions(votes).sum(axis=1) > 0)
    return rows
