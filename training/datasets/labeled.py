"""Data sets with one emotion for each image, in the forms that people have them.

- folders: a folder for each emotion, ``happy/1.jpg``, or such folders in ``train/`` and ``val/``;
- csv: ``labels.csv`` with the columns ``image`` and ``label`` and, optionally, ``split``;
- rafdb (Li et al., "Reliable Crowdsourcing and Deep Locality-Preserving Learning", CVPR 2017): as published, with
  ``EmoLabel/list_patition_label.txt`` and ``Image/aligned/``, or folders 1 to 7 in ``train/`` and ``test/``;
- affectnet (Mollahosseini et al., "AffectNet", IEEE TAC 2019): ``train_set/`` and ``val_set/`` with ``images/``
  and ``annotations/`` in each, or ``training.csv`` and ``validation.csv`` with the folder of images beside them;
- expw (Zhang et al., "From Facial Expression Recognition to Interpersonal Relation Prediction", IJCV 2018):
  ``label/label.lst`` and ``image/``, with several faces in a photo.

Where a set has no part for validation, a tenth of its images, by their names, is kept for that.
"""

import csv
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.datasets.ferplus import COLUMNS, EMOTIONS, Split
from training.datasets.images import EncodedImage
from training.datasets.people import SUFFIXES

SPELLINGS = {
    **{emotion: emotion for emotion in EMOTIONS},
    "happy": "happiness",
    "surprised": "surprise",
    "sad": "sadness",
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
}
"""Emotions by their names in folders and tables, in lower case."""

RAFDB = dict(
    zip("1234567", ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), strict=True)
)
AFFECTNET = dict(
    zip(
        "01234567",
        ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
        strict=True,
    )
)
"""Its numbers 8 to 10, none, uncertain and no face, are left out."""

EXPW = dict(
    zip("0123456", ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"), strict=True)
)

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "valid",
}
"""Splits by their names in folders and tables, in lower case. What is called test is validated on."""

VALID_SHARE = 10
"""One image in so many is kept for validation."""

Item = tuple[EncodedImage, str, str]
"""An image, the name or number of its emotion, and the name of its split, empty if the set has none."""


@dataclass(frozen=True)
class BoxedFace:
    """A face in a photo, by its box: left, top, right, bottom in pixels."""

    path: Path
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Name of the photo and left upper corner of the box."""
        return f"{self.path.name} {self.box[0]},{self.box[1]}"

    def read_bytes(self) -> bytes:
        """Encode the box and half as much around it as PNG; no bytes if the photo is unreadable."""
        import cv2  # a machine that trains from a bundle has none

        photo = cv2.imdecode(np.fromfile(self.path, np.uint8), cv2.IMREAD_COLOR)
        left, top, right, bottom = self.box
        across, along = (right - left) // 2, (bottom - top) // 2
        if photo is None:
            return b""
        part = photo[max(top - along, 0) : bottom + along, max(left - across, 0) : right + across]
        return cv2.imencode(".png", part)[1].tobytes() if part.size else b""


def read_labeled(folder: Path, kind: str) -> dict[str, Split]:
    """Read the splits "valid" and "train" of a set; each image has ten votes for its emotion.

    Images with another label than an emotion, or that do not exist, are counted as missing.

    Raises:
        ValueError: The folder holds nothing of this kind, or a label is unknown.
    """
    read, names = READERS[kind]
    found: dict[str, tuple[list[EncodedImage], list[int]]] = {"valid": ([], []), "train": ([], [])}
    missing = {"valid": 0, "train": 0}
    seen: set[str] = set()
    for image, label, split in read(folder):
        seen.add(label)
        place = SPLITS.get(split.lower()) if split else None
        if split and not place:
            raise ValueError(
                f"{folder} has an image of the split {split!r}; it must be one of {', '.join(SPLITS)}"
            )
        if not place:
            place = "valid" if zlib.crc32(image.name.encode()) % VALID_SHARE == 0 else "train"
        emotion = names.get(label.lower())
        path = image.path if isinstance(image, BoxedFace) else image
        if emotion is None or (isinstance(path, Path) and not path.is_file()):
            missing[place] += 1
            continue
        found[place][0].append(image)
        found[place][1].append(EMOTIONS.index(emotion))
    for split, (images, _) in found.items():
        if not images:
            raise ValueError(
                f"{folder} has no images of kind {kind} for the split {split} (labels found: "
                f"{', '.join(sorted(seen)[:12]) or 'none'}; known: {', '.join(names)}). See docs/training.md for "
                "what the folder must hold"
            )
    votes = 10 * np.eye(len(COLUMNS), dtype=np.int64)
    return {split: Split(images, votes[labels], missing[split]) for split, (images, labels) in found.items()}


def _folders(folder: Path) -> Iterator[Item]:
    """List the images in folders of an emotion, which may be in folders of a split."""
    for outer in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = outer.name if outer.name.lower() in SPLITS else ""
        for emotion in sorted(path for path in outer.iterdir() if path.is_dir()) if split else [outer]:
            for path in sorted(emotion.iterdir()):
                if path.suffix.lower() in SUFFIXES:
                    yield path, emotion.name, split


def _table(folder: Path) -> Iterator[Item]:
    table = folder / "labels.csv"
    for row in _rows(table, "image", "label"):
        yield folder / row["image"], row["label"], row.get("split") or ""


def _rafdb(folder: Path) -> Iterator[Item]:
    table = folder / "EmoLabel" / "list_patition_label.txt"
    if not table.is_file():
        yield from _folders(folder / "DATASET" if (folder / "DATASET").is_dir() else folder)
        return
    aligned = (folder / "Image" / "aligned").is_dir()
    for number, line in enumerate(table.read_text().split("\n"), start=1):
        if line.strip():
            columns = line.split()
            if len(columns) != 2:
                raise ValueError(f"{table}, line {number}: {line!r} has {len(columns)} columns; expected 2")
            name, label = columns
            path = folder / "Image" / ("aligned" if aligned else "original") / name
            path = path.with_name(f"{path.stem}_aligned{path.suffix}") if aligned else path
            yield path, label, name.partition("_")[0]


def _affectnet(folder: Path) -> Iterator[Item]:
    for part, split in (("train_set", "train"), ("val_set", "valid")):
        for file in sorted((folder / part / "annotations").glob("*_exp.npy")):
            label = str(int(np.load(file, allow_pickle=False).item()))
            yield folder / part / "images" / f"{file.name.removesuffix('_exp.npy')}.jpg", label, split
    for name, split in (("training.csv", "train"), ("validation.csv", "valid")):
        for table in sorted(folder.glob(f"**/{name}")):
            images = next((path for path in folder.glob("**/Manually_Annotated_Images") if path.is_dir()), folder)
            for row in _rows(table, "subDirectory_filePath", "expression"):
                yield images / row["subDirectory_filePath"], row["expression"], split


def _expw(folder: Path) -> Iterator[Item]:
    table = folder / "label" / "label.lst"
    if not table.is_file():
        return
    for number, line in enumerate(table.read_text().splitlines(), start=1):
        columns = line.split()
        if len(columns) != 8:
            raise ValueError(f"{table}, line {number}: {line!r} has {len(columns)} columns; expected 8")
        top, left, right, bottom = (int(column) for column in columns[2:6])
        yield BoxedFace(folder / "image" / columns[0], (left, top, right, bottom)), columns[7], ""


def _rows(table: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Read the rows; spreadsheets write a byte order mark first, and a row may end before its last column."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table} has no columns {sorted(missing)}; it has {reader.fieldnames}")
        yield from reader


READERS: dict[str, tuple[Callable[[Path], Iterator[Item]], Mapping[str, str]]] = {
    "folders": (_folders, SPELLINGS),
    "csv": (_table, SPELLINGS),
    "rafdb": (_rafdb, RAFDB),
    "affectnet": (_affectnet, AFFECTNET),
    "expw": (_expw, EXPW),
}
"""The reader and the labels of each kind."""
