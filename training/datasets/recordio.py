"""Faces by person in MXNet's RecordIO format: ``train.rec``, ``train.idx`` and ``property``.

Format: the documentation of dmlc-core's ``recordio.h`` (framing) and of MXNet's ``mx.recordio`` (image header).
A record is a magic number, a word of flag (3 bits) and length (29 bits), the data, and zeros up to the next
multiple of four. If the data contains the magic number at a multiple of four, the writer splits it there and
leaves the number out: flag 0 marks a whole record, 1 the first part of one, 2 a middle part, 3 the last part.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from training.datasets.people import People

RECORDS, INDEX, PROPERTY = "train.rec", "train.idx", "property"
MAGIC = struct.pack("<I", 0xCED7230A)
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
HEADER = struct.Struct("<IfQQ")
"""Flag, label and two ids. A flag above 0 is the number of float32 labels that follow and replace the label."""


@dataclass(frozen=True)
class RecordImage:
    """The image in the record at a byte offset of a file."""

    path: Path
    key: int
    offset: int

    @property
    def name(self) -> str:
        """Key of the record in the index."""
        return str(self.key)

    def read_bytes(self) -> bytes:
        """Read the encoded image; no bytes if the record is truncated or malformed."""
        try:
            with self.path.open("rb") as file:
                return read_image_record(file, self.offset)[1]
        except ValueError:
            return b""


def read_record(file: BinaryIO, offset: int) -> bytes:
    """Read the data of the record at an offset.

    Raises:
        ValueError: There is no record, or it is truncated.
    """
    file.seek(offset)
    parts: list[bytes] = []
    while True:
        head = file.read(8)
        if len(head) < 8 or head[:4] != MAGIC:
            raise ValueError(f"{file.name}: there is no record at byte {offset:,}")
        (word,) = struct.unpack("<I", head[4:])
        flag, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
        if (flag in (WHOLE, FIRST)) != (not parts):
            raise ValueError(f"{file.name}: the record at byte {offset:,} has its parts out of order")
        data = file.read(length)
        if len(data) < length:
            raise ValueError(f"{file.name}: the file ends within the record at byte {offset:,}")
        parts.append(data)
        if flag in (WHOLE, LAST):
            return MAGIC.join(parts)
        file.seek(-length % 4, 1)


def read_image_record(file: BinaryIO, offset: int) -> tuple[list[float], bytes]:
    """Read the labels and the encoded image of the record at an offset.

    Raises:
        ValueError: There is no record, it is truncated, or it is shorter than its header.
    """
    data = read_record(file, offset)
    if len(data) < HEADER.size:
        raise ValueError(f"{file.name}: the record at byte {offset:,} is shorter than the header of an image")
    flag, label, _, _ = HEADER.unpack_from(data)
    start = HEADER.size + 4 * flag
    if len(data) < start:
        raise ValueError(f"{file.name}: the record at byte {offset:,} is shorter than its {flag} labels")
    labels = list(struct.unpack_from(f"<{flag}f", data, HEADER.size)) if flag else [label]
    return labels, data[start:]


def read_recorded_people(folder: Path) -> People:
    """List the images of a container and the people in them.

    If the record of key 0 has two labels, it is not an image: the images are then the records from key 1 up to,
    but not including, the first label, and the records after them are summaries of each person.

    Raises:
        ValueError: The index or ``property`` is malformed, the index points to no record, a label is not below the
            number of people in ``property``, or there are fewer than two people.
        FileNotFoundError: One of the three files does not exist.
    """
    offsets = _read_index(folder / INDEX)
    classes = _read_property(folder / PROPERTY)
    images: list[RecordImage] = []
    labels: list[int] = []
    with (folder / RECORDS).open("rb") as file:
        keys = sorted(offsets)
        if 0 in offsets:
            summary, _ = read_image_record(file, offsets[0])
            if len(summary) == 2:
                keys = [key for key in keys if 0 < key < int(summary[0])]
        for key in keys:
            label = int(_read_label(file, offsets[key]))
            if not 0 <= label < classes:
                raise ValueError(
                    f"{folder / RECORDS}: record {key} has the label {label}; {PROPERTY} counts {classes:,} people"
                )
            images.append(RecordImage(folder / RECORDS, key, offsets[key]))
            labels.append(label)
    people, indices = np.unique(np.array(labels, np.int64), return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"{folder} holds images of {len(people)} people; at least 2 people are needed")
    return People(list(images), indices.astype(np.int64), [str(person) for person in people])


def _read_label(file: BinaryIO, offset: int) -> float:
    """Read the first label of a record without its image."""
    file.seek(offset)
    head = file.read(8 + HEADER.size + 4)
    if len(head) < 8 + HEADER.size or head[:4] != MAGIC:
        raise ValueError(f"{file.name}: there is no record at byte {offset:,}")
    flag, label, _, _ = HEADER.unpack_from(head, 8)
    if flag and len(head) == 8 + HEADER.size + 4:
        (label,) = struct.unpack_from("<f", head, 8 + HEADER.size)
    return float(label)


def _read_index(file: Path) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            key, offset = line.split("\t")
            offsets[int(key)] = int(offset)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {line!r} is not a key and an offset") from error
    return offsets


def _read_property(file: Path) -> int:
    """Read the number of people, the first of ``people,height,width``."""
    text = file.read_text().strip()
    try:
        people, _, _ = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{file} holds {text!r}; expected people,height,width") from error
    return people
