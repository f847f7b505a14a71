"""Prepare each kind of data set from the form it is downloaded in."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.ckplus import read_ckplus
from training.datasets.ferplus import read_split
from training.datasets.lfw import PAIR_LISTS, read_pairs
from training.datasets.people import read_people
from training.datasets.prepared import ALIGNED, PARTS, UNREADABLE, write_prepared
from training.datasets.recordio import RECORDS, read_recorded_people
from training.preparation.cropping import crop_images
from training.preparation.teacher import Teacher


def prepare_ferplus(source: Path, out: Path, workers: int | None = None) -> None:
    """Prepare FER+ as ``out``/train, ``out``/valid and, if its images are present, ``out``/test.

    Training images whose crops also occur in another split are dropped. The array ``unaligned`` holds each image
    as FER+ frames it, and ``matrices`` the transform from there to its crop.
    """
    known: set[bytes] = set()
    for split in ("test", "valid", "train"):
        try:
            rows = read_split(source, split)
        except ValueError:
            if split == "test":  # often withheld
                continue
            raise
        crops = crop_images(
            rows.images, out / split / PARTS, title=f"FER+ {split}", workers=workers, unaligned=True
        )
        digests = [hashlib.sha256(crop.tobytes()).digest() for crop in crops.pixels]
        kept = crops.outcomes != UNREADABLE
        duplicates = 0
        if split == "train":
            fresh = np.array([digest not in known for digest in digests])
            duplicates = int((~fresh).sum())
            kept &= fresh
        known.update(digests)
        counts = {"rows without an image": rows.missing, "also in another split": duplicates}
        files = np.array([image.name for image in rows.images])
        arrays: dict[str, NDArray[Any]] = {"votes": rows.votes, "files": files}
        if crops.unaligned is not None:
            arrays["unaligned"] = crops.unaligned
        if crops.matrices is not None:
            arrays["matrices"] = crops.matrices
        write_prepared(out / split, source, crops, kept, arrays, counts)


def prepare_identity(
    source: Path, out: Path, workers: int | None = None, *, teacher: Path | None = None, wide: bool = False
) -> None:
    """Prepare faces by person: a folder for each person, or MXNet's ``train.rec`` with its index.

    Args:
        source: Folder of the data set.
        out: Folder of the prepared set.
        workers: Worker processes; None starts one for each core.
        teacher: ONNX face embedding network; its embeddings become the array ``teacher``.
        wide: Also store wider crops, as the array ``wide``.
    """
    people = read_recorded_people(source) if (source / RECORDS).is_file() else read_people(source)
    crops = crop_images(people.images, out / PARTS, title="identity", workers=workers, teacher=teacher, wide=wide)
    kept = crops.outcomes == ALIGNED  # a crop without a face teaches no identity
    arrays: dict[str, NDArray[Any]] = {"labels": people.labels}
    facts: dict[str, Any] = {"people": len(people.names)}
    if crops.wide is not None:
        arrays["wide"] = crops.wide
    if teacher and crops.embeddings is not None:
        arrays["teacher"] = crops.embeddings
        facts |= {"teacher": teacher.name, "teacher_sha256": Teacher(teacher).sha256}
    write_prepared(out, source, crops, kept, arrays, facts)


def prepare_lfw(source: Path, out: Path, workers: int | None = None) -> None:
    """Prepare the pair lists of LFW that are present as ``out``/dev-train, ``out``/dev-test and ``out``/view2.

    Raises:
        FileNotFoundError: There is no pair list.
    """
    present = {name: file for name, file in PAIR_LISTS.items() if (source / file).is_file()}
    if not present:
        raise FileNotFoundError(f"{source} holds none of {', '.join(PAIR_LISTS.values())}")
    for name, file in present.items():
        pairs = read_pairs(source, file)
        crops = crop_images(pairs.paths, out / name / PARTS, title=f"LFW {name}", workers=workers)
        arrays = {"pairs": pairs.indices, "same": pairs.same, "folds": pairs.folds}
        write_prepared(out / name, source, crops, None, arrays, {"pairs": len(pairs.same)})


def prepare_ckplus(source: Path, out: Path, workers: int | None = None, *, neutral: bool = False) -> None:
    """Prepare CK+, in either form, with the subject of each image.

    Args:
        source: Folder of the data set.
        out: Folder of the prepared set.
        workers: Worker processes; None starts one for each core.
        neutral: Add the first frame of each sequence as neutral.
    """
    frames = read_ckplus(source, neutral=neutral)
    crops = crop_images(frames.paths, out / PARTS, title="CK+", workers=workers)
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
}
"""The function for each kind of data set."""
