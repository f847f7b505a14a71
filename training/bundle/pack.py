"""Choose what a training run needs from the prepared sets, and write it into a bundle."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.bundle.file import write_bundle
from training.crop_spec import CROP_SHAPE, CROP_SIZE, MARGIN, describe_crop
from training.datasets.ferplus import training_rows
from training.datasets.prepared import PreparedSet, load_prepared
from training.protocols.readings import choosing_half
from training.runs import current_commit
from training.settings.bundle import BundleSettings


def pack(settings: BundleSettings) -> None:
    """Write a bundle.

    Raises:
        FileNotFoundError: A prepared set is missing.
        ValueError: A set lacks what a bundle needs, or the bundle is too large.
    """
    train, valid = load_prepared(settings.ferplus / "train"), load_prepared(settings.ferplus / "valid")
    faces = load_prepared(settings.faces)
    for name, prepared in (("train", train), ("valid", valid)):
        if prepared.shape != CROP_SHAPE:
            raise ValueError(
                f"{settings.ferplus / name} has {describe_crop(prepared.shape)} crops; a bundle takes "
                f"{describe_crop(CROP_SHAPE)} ones only"
            )
        if not {"unaligned", "matrices"} <= set(prepared.arrays):
            raise ValueError(f"{settings.ferplus / name} has no array 'matrices'; prepare it again")
    if "wide" not in faces.arrays:
        raise ValueError(f"{settings.faces} has no array 'wide'; prepare it with --wide true")
    votes = train.arrays["votes"]
    kept = training_rows(votes)
    cut = MARGIN - settings.margin
    side = CROP_SIZE[0] + 2 * MARGIN
    images = {
        "train": (train.arrays["unaligned"][kept, 0], settings.loss),
        "faces": (faces.arrays["wide"][:, cut : side - cut, cut : side - cut], settings.loss),
        "valid": (valid.arrays["unaligned"][:, 0], settings.valid_loss),
    }
    arrays: dict[str, NDArray[Any]] = {
        "train_matrices": train.arrays["matrices"][kept],
        "train_votes": votes[kept].astype(np.uint8),
        "valid_matrices": valid.arrays["matrices"],
        "valid_votes": valid.arrays["votes"].astype(np.uint8),
        "valid_outcomes": valid.arrays["outcomes"],
        "valid_choosing": choosing_half(valid),
        "people": np.unique(faces.arrays["labels"], return_inverse=True)[1].astype(np.int32),
    }
    arrays |= _reduced_embeddings(faces, settings.teacher_size)
    facts = {"settings": asdict(settings), "commit": current_commit()}
    write_bundle(settings.out, facts, images, arrays, max_mib=settings.max_mib)


def _reduced_embeddings(faces: PreparedSet, size: int) -> dict[str, NDArray[Any]]:
    """Project the teacher's embeddings to their principal components, of which each is 8 bits of a unit vector."""
    if "teacher" not in faces.arrays:
        return {}
    embeddings = faces.arrays["teacher"].astype(np.float32)
    centered = embeddings - embeddings.mean(axis=0)
    _, components = np.linalg.eigh(centered.T @ centered)
    reduced = centered @ components[:, ::-1][:, :size]
    kept = float((reduced**2).sum() / (centered**2).sum())
    print(f"{reduced.shape[1]} numbers hold {kept:.1%} of the variance of the teacher's embeddings")
    largest = np.abs(reduced).max(axis=1, keepdims=True)
    return {"embeddings": np.round(reduced / np.maximum(largest, 1e-12) * 127).astype(np.int8)}
