"""Prepare each kind of data set from the form it is downloaded in."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.crop_spec import CROP_SHAPE, CropShape
from training.datasets.ckplus import read_ckplus
from training.datasets.ferplus import Split, Votes, read_split
from training.datasets.labeled import READERS, read_labeled
from training.datasets.lfw import PAIR_LISTS, find_list, read_pairs
from training.datasets.people import People, read_people
from training.datasets.prepared import ALIGNED, PARTS, UNREADABLE, write_prepared
from training.datasets.recordio import RECORDS, read_recorded_people
from training.preparation.cropping import crop_images
from training.preparation.teacher import Teacher

QUICK_IMAGES = {"train": 400, "valid": 200}
QUICK_PEOPLE, QUICK_IMAGES_OF_EACH = 10, 30
"""What a quick trial of the recipe reads."""


def read_ferplus(source: Path, split: str, *, quick: bool = False) -> Split:
    """Read a split of FER+; a quick trial gets some of its images, spread evenly."""
    read = read_split(source, split)
    if not quick or len(read.images) <= QUICK_IMAGES[split]:
        return read
    rows = np.linspace(0, len(read.images) - 1, QUICK_IMAGES[split]).astype(int)
    return Split([read.images[row] for row in rows], read.votes[rows], read.missing)


def read_identity(source: Path, *, quick: bool = False) -> People:
    """Read faces by person in either form; a quick trial gets some images of those people who have most."""
    people = read_recorded_people(source) if (source / RECORDS).is_file() else read_people(source)
    if not quick:
        return people
    most = np.argsort(-np.bincount(people.labels), kind="stable")[:QUICK_PEOPLE]
    rows = [np.flatnonzero(people.labels == person)[:QUICK_IMAGES_OF_EACH] for person in most]
    labels = np.repeat(np.arange(len(most)), [len(each) for each in rows])
    images = [people.images[row] for each in rows for row in each]
    return People(images, labels, [people.names[person] for person in most])


def prepare_ferplus(
    source: Path,
    out: Path,
    workers: int | None = None,
    *,
    shape: CropShape = CROP_SHAPE,
    quick: bool = False,
) -> None:
    """Prepare FER+ as ``out``/train, ``out``/valid and, if its images are present, ``out``/test.

    Training images whose crops also occur in another split are dropped; those with the same crop become one, with
    the votes of all. The array ``unaligned`` holds each image as FER+ frames it, and ``matrices`` the transform
    from there to its crop. ``quick`` reads a few images only.
    """
    splits: dict[str, Split] = {}
    for split in ("valid", "train") if quick else ("test", "valid", "train"):
        try:
            splits[split] = read_ferplus(source, split, quick=quick)
        except ValueError:
            if split == "test":  # often withheld
                continue
            raise
    _prepare_splits("FER+", source, out, splits, workers, shape)


def prepare_labeled(
    kind: str, source: Path, out: Path, workers: int | None = None, *, shape: CropShape = CROP_SHAPE
) -> None:
    """Prepare a set with one emotion for each image like FER+, as ``out``/train and ``out``/valid."""
    _prepare_splits(kind, source, out, read_labeled(source, kind), workers, shape, central=kind == "expw")


def _prepare_splits(
    title: str,
    source: Path,
    out: Path,
    splits: Mapping[str, Split],
    workers: int | None,
    shape: CropShape,
    *,
    central: bool = False,
) -> None:
    """Prepare splits, of which "train" is the last."""
    known: set[bytes] = set()
    for split, rows in splits.items():
        crops = crop_images(
            rows.images,
            out / split / PARTS,
            title=f"{title} {split}",
            shape=shape,
            workers=workers,
            unaligned=True,
            central=central,
        )
        digests = [hashlib.sha256(crop.tobytes()).digest() for crop in crops.pixels]
        kept = crops.outcomes != UNREADABLE
        votes = rows.votes
        duplicates, merged = 0, 0
        if split == "train":
            fresh = np.array([digest not in known for digest in digests])
            duplicates = int((~fresh).sum())
            votes, first = merge_votes(votes, digests)
            merged = int((kept & fresh & ~first).sum())
            kept &= fresh & first
        known.update(digests)
        counts = {"rows without an image": rows.missing, "also in another split": duplicates, "merged": merged}
        files = np.array([image.name for image in rows.images])
        arrays: dict[str, NDArray[Any]] = {"votes": votes, "files": files}
        if crops.unaligned is not None:
            arrays["unaligned"] = crops.unaligned
        if crops.matrices is not None:
            arrays["matrices"] = crops.matrices
        write_prepared(out / split, source, crops, kept, arrays, counts)


def merge_votes(votes: Votes, digests: Sequence[bytes]) -> tuple[Votes, NDArray[np.bool_]]:
    """Give the first of equal images the votes of all, [n, 10], and return which images are such a first, [n]."""
    _, first, group = np.unique(np.array(digests), return_index=True, return_inverse=True)
    merged = votes.copy()
    sums = np.zeros((len(first), votes.shape[1]), votes.dtype)
    np.add.at(sums, group, votes)
    merged[first] = sums
    is_first = np.zeros(len(votes), bool)
    is_first[first] = True
    return merged, is_first


def prepare_identity(
    source: Path,
    out: Path,
    workers: int | None = None,
    *,
    shape: CropShape = CROP_SHAPE,
    teacher: Path | None = None,
    wide: bool = False,
    quick: bool = False,
) -> None:
    """Prepare faces by person: a folder for each person, or MXNet's ``train.rec`` with its index.

    Args:
        source: Folder of the data set.
        out: Folder of the prepared set.
        workers: Worker processes; None starts one for each core.
        shape: (channels, height, width) of a crop.
        teacher: ONNX face embedding network; its embeddings become the array ``teacher``.
        wide: Also store wider crops, as the array ``wide``.
        quick: Read a few images of ten people only.
    """
    people = read_identity(source, quick=quick)
    crops = crop_images(
        people.images,
        out / PARTS,
        title="identity",
        shape=shape,
        workers=workers,
        teacher=teacher,
        wide=wide,
    )
    kept = crops.outcomes == ALIGNED  # a crop without a face teaches no identity
    arrays: dict[str, NDArray[Any]] = {"labels": people.labels}
    facts: dict[str, Any] = {"people": len(people.names)}
    if crops.wide is not None:
        arrays["wide"] = crops.wide
    if teacher and crops.embeddings is not None:
        arrays["teacher"] = crops.embeddings
        facts |= {"teacher": teacher.name, "teacher_sha256": Teacher(teacher).sha256}
    write_prepared(out, source, crops, kept, arrays, facts)


def prepare_lfw(source: Path, out: Path, workers: int | None = None, *, shape: CropShape = CROP_SHAPE) -> None:
    """Prepare the pair lists of LFW that are present as ``out``/dev-train, ``out``/dev-test and ``out``/view2.

    The face nearest to the center of each image counts; the largest may be a bystander's.

    Raises:
        FileNotFoundError: There is no pair list.
    """
    present = {name: file for name, file in PAIR_LISTS.items() if find_list(source, file)}
    if not present:
        raise FileNotFoundError(f"{source} holds none of {', '.join(PAIR_LISTS.values())}, nor is one beside it")
    for name, file in present.items():
        pairs = read_pairs(source, file)
        crops = crop_images(
            pairs.paths, out / name / PARTS, title=f"LFW {name}", shape=shape, workers=workers, central=True
        )
        arrays = {"pairs": pairs.indices, "same": pairs.same, "folds": pairs.folds}
        write_prepared(out / name, source, crops, None, arrays, {"pairs": len(pairs.same)})


def prepare_ckplus(
    source: Path,
    out: Path,
    workers: int | None = None,
    *,
    shape: CropShape = CROP_SHAPE,
    neutral: bool = False,
) -> None:
    """Prepare CK+, in either form, with the subject of each image.

    Args:
        source: Folder of the data set.
        out: Folder of the prepared set.
        workers: Worker processes; None starts one for each core.
        shape: (channels, height, width) of a crop.
        neutral: Add the first frame of each sequence as neutral.
    """
    frames = read_ckplus(source, neutral=neutral)
    crops = crop_images(frames.paths, out / PARTS, title="CK+", shape=shape, workers=workers)
    arrays: dict[str, NDArray[Any]] = {
        "votes": frames.votes(),
        "subjects": frames.subjects,
        "files": np.array([path.name for path in frames.paths]),
    }
    counts = {"subjects": len(np.unique(frames.subjects)), **frames.skipped}
    write_prepared(out, source, crops, crops.outcomes != UNREADABLE, arrays, counts)


PREPARATIONS: dict[str, Callable[..., None]] = {
    "ferplus": prepare_ferplus,
    "identity": prepare_identity,
    "lfw": prepare_lfw,
    "ckplus": prepare_ckplus,
    **{kind: partial(prepare_labeled, kind) for kind in READERS},
}
"""The function for each kind of data set."""
