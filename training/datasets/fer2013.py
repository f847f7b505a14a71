"""FER2013 as published on Kaggle: a table with a string of 48 x 48 gray values in each row.

Goodfellow et al., "Challenges in Representation Learning: A report on three machine learning contests",
ICONIP 2013. Columns: ``emotion`` (not used here), ``pixels``, ``Usage``.
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
    """One row, with its pixels as text."""

    usage: str
    text: str

    def decode(self) -> bytes:
        """Return the 48 x 48 gray values row by row; no bytes if there are more, fewer or invalid values."""
        try:
            values = np.array(self.text.split(), np.int64)
        except ValueError:
            return b""
        if len(values) != SIDE * SIDE or values.min() < 0 or values.max() > 255:
            return b""
        return values.astype(np.uint8).tobytes()


def read_pixel_rows(table: Path) -> Iterator[PixelRow]:
    """Read the rows of the table in order.

    Raises:
        ValueError: A column is missing.
        FileNotFoundError: The table does not exist.
    """
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = COLUMNS - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table} has no columns {sorted(missing)}; it has {reader.fieldnames}")
        for row in reader:
            yield PixelRow(row["Usage"] or "", row["pixels"] or "")
