"""The prepared form of a data set: a folder with crops, labels and a manifest. Training reads nothing else."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from training.crop_spec import TEMPLATE, CropShape, describe_crop

CROPS = "crops.npy"
"""A separate file, so that it can be memory-mapped: a set may be larger than memory."""
ARRAYS = "arrays.npz"
MANIFEST = "manifest.json"
PARTS = "parts"
"""Folder for the crops of a preparation in progress."""

ALIGNED, NO_FACE, UNREADABLE = 0, 1, 2
OUTCOMES = ("aligned", "no face", "unreadable")
WRITE_CHUNK = 512

CALIBRATION_CROPS = 512
"""Crops whose statistics the normalizations of a pretrained or restored network start from."""


@dataclass(frozen=True, eq=False)
class Crops:
    """The crops of all images of a data set.

    Attributes:
        pixels: Crops, uint8 [n, C, H, W]: the aligned face; the middle of the image if no face was found;
            black if the image is unreadable.
        outcomes: ``ALIGNED``, ``NO_FACE`` or ``UNREADABLE``, uint8 [n].
        unaligned: The middle of each image whether or not a face was found, uint8 [n, C, H, W].
        matrices: The transform of each from pixels of ``unaligned`` to those of ``pixels``, float32 [n, 2, 3].
        wide: Each aligned face in gray with a margin of ``MARGIN`` pixels, uint8 [n, 64, 64]; black without one.
        embeddings: A teacher's embedding of each face, float16 [n, size]; zero if there is none.
    """

    pixels: NDArray[np.uint8]
    outcomes: NDArray[np.uint8]
    unaligned: NDArray[np.uint8] | None = None
    matrices: NDArray[np.float32] | None = None
    wide: NDArray[np.uint8] | None = None
    embeddings: NDArray[np.float16] | None = None

    def counts(self) -> dict[str, int]:
        """Count the images by outcome."""
        counts = Counter(self.outcomes.tolist())
        return {name: counts[outcome] for outcome, name in enumerate(OUTCOMES)}


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """Crops uint8 [n, C, H, W], further arrays by name, and the manifest that says where they come from."""

    crops: NDArray[np.uint8]
    arrays: dict[str, NDArray[Any]]
    manifest: dict[str, Any]

    @property
    def shape(self) -> CropShape:
        """(channels, height, width) of a crop."""
        channels, height, width = self.crops.shape[1:]
        return channels, height, width

    @property
    def aligned(self) -> NDArray[np.bool_]:
        """Whether a face was found, [n]."""
        aligned: NDArray[np.bool_] = self.arrays["outcomes"] == ALIGNED
        return aligned


def load_prepared(folder: Path) -> PreparedSet:
    """Read a prepared set, with its crops memory-mapped.

    Raises:
        FileNotFoundError: The folder holds no prepared set.
        ValueError: The crops do not match the manifest, or were aligned to another template.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} holds no prepared set; create one with `training prepare`")
    manifest = json.loads((folder / MANIFEST).read_text())
    with np.load(folder / ARRAYS) as file:
        arrays = {name: file[name] for name in file.files}
    # Mapped copy-on-write, because torch needs writable memory; nothing writes to it.
    crops = _with_channels(np.load(folder / CROPS, mmap_mode="c"))
    if "unaligned" in arrays:
        arrays["unaligned"] = _with_channels(arrays["unaligned"])
    if _digest(crops) != manifest["crops_sha256"]:
        raise ValueError(f"{folder / CROPS} does not match {folder / MANIFEST}; prepare the set again")
    if manifest["template"] != TEMPLATE.tolist():
        raise ValueError(f"{folder} was aligned to another template; prepare the set again")
    return PreparedSet(crops, arrays, manifest)


def write_prepared(
    out: Path,
    source: Path,
    crops: Crops,
    kept: NDArray[np.bool_] | None,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write a prepared set and delete the parts that its crops were assembled from.

    Args:
        out: Folder of the set.
        source: Folder of the images; its name is written into the manifest.
        crops: The crops of all images.
        kept: Which images to keep, [n]; None keeps all.
        arrays: Further arrays. If ``kept`` is given, each has a row for each image; otherwise any shape will do.
        facts: Further entries of the manifest.
    """
    rows = {name: array if kept is None else array[kept] for name, array in arrays.items()}
    rows |= {"outcomes": crops.outcomes[slice(None) if kept is None else kept]}
    out.mkdir(parents=True, exist_ok=True)
    chosen = np.arange(len(crops.pixels)) if kept is None else np.flatnonzero(kept)
    pixels = open_memmap(out / CROPS, "w+", np.uint8, (len(chosen), *crops.pixels.shape[1:]))
    for start in range(0, len(chosen), WRITE_CHUNK):
        pixels[start : start + WRITE_CHUNK] = crops.pixels[chosen[start : start + WRITE_CHUNK]]
    pixels.flush()
    np.savez(out / ARRAYS, allow_pickle=False, **rows)
    manifest = {
        "source": source.name,
        "images": len(crops.pixels),
        "kept": len(pixels),
        "outcomes": crops.counts(),
        **facts,
        "crop": list(crops.pixels.shape[1:]),
        "template": TEMPLATE.tolist(),
        "crops_sha256": _digest(pixels),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    shown = ", ".join(f"{count:,} {name}" for name, count in crops.counts().items())
    print(f"{out}: {len(pixels):,} of {len(crops.pixels):,} images kept ({shown})")
    shutil.rmtree(out / PARTS, ignore_errors=True)


def calibration_crops(prepared: PreparedSet, seed: int) -> NDArray[np.uint8]:
    """Draw ``CALIBRATION_CROPS`` crops [n, C, H, W], or all if there are fewer."""
    rows = np.random.default_rng(seed).permutation(len(prepared.crops))[:CALIBRATION_CROPS]
    return prepared.crops[rows]


def check_same_crops(first: PreparedSet, folder: Path, crops: NDArray[np.uint8], other: Path) -> None:
    """Raise a ValueError unless the crops [n, C, H, W] of another folder have the shape of those of the first."""
    channels, height, width = crops.shape[1:]
    if (channels, height, width) != first.shape:
        raise ValueError(
            f"{other} has {describe_crop((channels, height, width))} crops, but {folder} has "
            f"{describe_crop(first.shape)} ones; prepare both with the same --crop_size and --color"
        )


def image_digests(prepared: PreparedSet) -> list[bytes]:
    """Return a digest of each image; unaligned pixels depend on the image alone, not on where a face was found."""
    pixels = prepared.arrays.get("unaligned", prepared.crops)
    return [hashlib.sha256(each.tobytes()).digest() for each in pixels]


def _with_channels(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return crops [n, C, H, W]; sets that were prepared before there were crops in color have [n, H, W]."""
    return crops if crops.ndim == 4 else crops[:, None]


def _digest(crops: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(crops).data).hexdigest()
