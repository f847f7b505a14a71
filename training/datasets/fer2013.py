"""FER2013 as Kaggle gives it: one table, each row an image as a string of 48 x 48 grey values.

Goodfellow et al., "Challenges in Representation Learning: A report on three machine learning contests",
ICONIP 2013. Columns: ``emotion`` (of one person, not used here), ``pixels``, ``Usage``.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PIXELS_TABLE = "fer2013.csv"
SIDE = 48
COLUMNS = {"emotion", "pixels", "Usage"}


@dataclass(frozen=True)
class PixelRow:
    """One row, its pixels still as text."""

    usage: str
    text: str

    def decode(self) -> bytes:
        """The grey values, row by row; empty where they are not 48 x 48 whole numbers from 0 to 255."""
        try:
            values = np.array(self.text.split(), np.int64)
        except ValueError:
            return b""
        if len(values) != SIDE * SIDE or values.min() < 0 or values.max() > 255:
            return b""
        return values.astype(np.uint8).tobytes()


def read_pixel_rows(table: Path) -> Iterator[PixelRow]:
    """Each row in order.

    Raises:
        ValueError: a column is lacking.
        FileNotFoundError: the table is not there.
    """
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        lacking = COLUMNS - set(reader.fieldnames or ())
        if lacking:
            raise ValueError(f"{table} lacks the columns {sorted(lacking)}; it has {reader.fieldnames}")
        for row in reader:
            yield PixelRow(row["Usage"] or "", row["pixels"] or "")
