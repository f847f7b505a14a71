"""The prepared form: a folder with crops, labels and a manifest. Training reads nothing else."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from training.crop_spec import CROP_SIZE, TEMPLATE
from training.datasets.ckplus import read_ckplus
from training.datasets.ferplus import read_split
from training.datasets.lfw import read_pairs
from training.datasets.people import read_people
from training.datasets.recordio import RECORDS, read_recorded_people
from training.preparation.cropping import ALIGNED, CHUNK, UNREADABLE, Crops, crop_images, crop_middle
from training.preparation.teacher import Teacher

CROPS = "crops.npy"
"""A file of its own: read through the page cache, so that a set larger than the memory can be trained on."""
ARRAYS = "arrays.npz"
MANIFEST = "manifest.json"
PAIR_LISTS = {"dev-train": "pairsDevTrain.txt", "dev-test": "pairsDevTest.txt", "view2": "pairs.txt"}
"""LFW's lists, by the folder of the set that each becomes."""


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """Crops uint8 [n, 48, 48], further arrays by name, and the manifest that says what they are made of."""

    crops: NDArray[np.uint8]
    arrays: dict[str, NDArray[Any]]
    manifest: dict[str, Any]

    @property
    def aligned(self) -> NDArray[np.bool_]:
        """[n], whether a face was found."""
        aligned: NDArray[np.bool_] = self.arrays["outcomes"] == ALIGNED
        return aligned


def load_prepared(folder: Path) -> PreparedSet:
    """Read a prepared set; its crops stay on disk until they are used.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the crops are not those of the manifest, or were cut for another framing.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} holds no prepared set; make one with `training prepare`")
    manifest = json.loads((folder / MANIFEST).read_text())
    with np.load(folder / ARRAYS) as file:
        arrays = {name: file[name] for name in file.files}
    # Mapped copy-on-write: torch wants writable memory, and nothing here writes.
    crops = np.load(folder / CROPS, mmap_mode="c")
    if _digest(crops) != manifest["crops_sha256"]:
        raise ValueError(f"{folder / CROPS} is not what {folder / MANIFEST} describes: prepare it anew")
    if manifest["template"] != TEMPLATE.tolist():
        raise ValueError(f"{folder} was cut for another template: prepare it anew")
    return PreparedSet(crops, arrays, manifest)


def prepare_ferplus(source: Path, out: Path, workers: int | None = None) -> None:
    """``source`` in the layout of FER+ to ``out``/train and ``out``/valid (and /test, where its images are there).

    Images of the training split that also occur in another, pixel for pixel, are dropped from training. The array
    ``raw`` holds each image as FER+ frames it, beside the crop by the face's landmarks.
    """
    known: set[bytes] = set()
    for split in ("test", "valid", "train"):
        try:
            rows = read_split(source, split)
        except ValueError:
            if split == "test":  # kept back by whoever measures
                continue
            raise
        crops = crop_images(rows.images, out / split / "parts", title=f"FER+ {split}", workers=workers)
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
        raw = np.stack([crop_middle(image) for image in rows.images])
        arrays = {"votes": rows.votes, "files": files, "raw": raw}
        write_prepared(out / split, source, crops, kept, arrays, counts)


def prepare_identity(source: Path, out: Path, workers: int | None = None, *, teacher: Path | None = None) -> None:
    """A folder-per-person tree, or MXNet's ``train.rec`` with its index, to ``out``.

    Args:
        teacher: ONNX embedding network; its embeddings become the array ``teacher``.
    """
    people = read_recorded_people(source) if (source / RECORDS).is_file() else read_people(source)
    crops = crop_images(people.images, out / "parts", title="identity", workers=workers, teacher=teacher)
    kept = crops.outcomes == ALIGNED  # a crop of no face teaches no identity
    arrays: dict[str, NDArray[Any]] = {"labels": people.labels}
    facts: dict[str, Any] = {"people": len(people.names)}
    if teacher and crops.embeddings is not None:
        arrays["teacher"] = crops.embeddings
        facts |= {"teacher": teacher.name, "teacher_sha256": Teacher(teacher).sha256}
    write_prepared(out, source, crops, kept, arrays, facts)


def prepare_lfw(source: Path, out: Path, workers: int | None = None) -> None:
    """LFW's pair lists, those that are there: View 1 to ``out``/dev-train and /dev-test, View 2 to ``out``/view2.

    Raises:
        FileNotFoundError: no pair list is there.
    """
    present = {name: file for name, file in PAIR_LISTS.items() if (source / file).is_file()}
    if not present:
        raise FileNotFoundError(f"{source} holds none of {', '.join(PAIR_LISTS.values())}")
    for name, file in present.items():
        pairs = read_pairs(source, file)
        crops = crop_images(pairs.paths, out / name / "parts", title=f"LFW {name}", workers=workers)
        arrays = {"pairs": pairs.indices, "same": pairs.same, "folds": pairs.folds}
        write_prepared(out / name, source, crops, None, arrays, {"pairs": len(pairs.same)})


def prepare_ckplus(source: Path, out: Path, workers: int | None = None, *, neutral: bool = False) -> None:
    """CK+ in either form to ``out``, with the subject of each image.

    Args:
        neutral: take each sequence's first frame as neutral.
    """
    frames = read_ckplus(source, neutral=neutral)
    crops = crop_images(frames.paths, out / "parts", title="CK+", workers=workers)
    arrays: dict[str, NDArray[Any]] = {
        "votes": frames.votes(),
        "subjects": frames.subjects,
        "files": np.array([path.name for path in frames.paths]),
    }
    counts = {"subjects": len(np.unique(frames.subjects)), **frames.skipped}
    write_prepared(out, source, crops, crops.outcomes != UNREADABLE, arrays, counts)


def write_prepared(
    out: Path,
    source: Path,
    crops: Crops,
    kept: NDArray[np.bool_] | None,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write a prepared set; the crops' parts are done with then.

    Args:
        out: folder of the set.
        source: where the images came from; its name goes into the manifest.
        crops: of every image.
        kept: which images to keep [n]; None keeps all, as arrays that index them demand.
        arrays: further arrays, a row for each image unless ``kept`` is None.
        facts: what else the manifest should say.
    """
    rows = {name: array if kept is None else array[kept] for name, array in arrays.items()}
    rows |= {"outcomes": crops.outcomes[slice(None) if kept is None else kept]}
    out.mkdir(parents=True, exist_ok=True)
    chosen = np.arange(len(crops.pixels)) if kept is None else np.flatnonzero(kept)
    pixels = open_memmap(out / CROPS, "w+", np.uint8, (len(chosen), *CROP_SIZE))
    for start in range(0, len(chosen), CHUNK):
        pixels[start : start + CHUNK] = crops.pixels[chosen[start : start + CHUNK]]
    pixels.flush()
    np.savez(out / ARRAYS, allow_pickle=False, **rows)
    manifest = {
        "source": source.name,
        "images": len(crops.pixels),
        "kept": len(pixels),
        "outcomes": crops.counts(),
        **facts,
        "crop_size": list(CROP_SIZE),
        "template": TEMPLATE.tolist(),
        "crops_sha256": _digest(pixels),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(out / "parts", ignore_errors=True)


def _digest(crops: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(crops).data).hexdigest()


PREPARATIONS: dict[str, Callable[..., None]] = {
    "ferplus": prepare_ferplus,
    "identity": prepare_identity,
    "lfw": prepare_lfw,
    "ckplus": prepare_ckplus,
}
"""What can be prepared, by name."""
