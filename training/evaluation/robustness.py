"""Score FER+ faces in photos that are less ideal: small, blurred, rotated, dark or heavily compressed.

Each face is pasted into a larger photo, which is degraded and then goes through the face pipeline and the network.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.crop_spec import CropShape
from training.datasets.ferplus import DROPPED, majority_labels, read_split
from training.evaluation.contract import read_crop
from training.evaluation.robustness_photos import CONDITIONS, HEIGHT, SIDE, WIDTH, crop_all
from training.networks.inference import predict
from training.protocols.bootstrap import interval
from training.settings.evaluation import RobustnessSettings
from training.tables import Table, percent, percent_range


def measure_robustness(settings: RobustnessSettings) -> None:
    """Score every condition, print the scores and write them to a file if one is given."""
    network = torch.jit.load(settings.model, map_location="cpu")  # type: ignore[no-untyped-call]
    labels, crops, found = paste_faces(
        settings.source, settings.split, settings.limit, settings.workers, read_crop(settings.model)
    )
    conditions: dict[str, Any] = {}
    for index, name in enumerate(CONDITIONS):
        predicted = predict(network, np.ascontiguousarray(crops[:, index])).argmax(axis=1)
        correct = (predicted == labels) & found[:, index]
        bounds = interval(len(correct), _mean_of(correct))
        conditions[name] = {
            "faces_found": float(found[:, index].mean()),
            "accuracy": float(correct.mean()),
            "interval": {"low": bounds.low, "high": bounds.high},
            "accuracy_of_found": float(correct[found[:, index]].mean()) if found[:, index].any() else None,
        }
    result = {"split": settings.split, "images": len(labels), "conditions": conditions}
    if settings.out:
        settings.out.write_text(json.dumps(result, indent=2) + "\n")
    table(result).print()


def paste_faces(
    source: Path, split: str, limit: int | None, workers: int | None, shape: CropShape
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_]]:
    """Paste the faces of a split, which have a majority, into photos of every condition, and crop them again.

    Returns:
        Labels [images], crops [images, conditions, C, H, W], and whether a face was found [images, conditions].
    """
    rows = read_split(source, split)
    labels = majority_labels(rows.votes)
    chosen = np.flatnonzero(labels != DROPPED)
    if limit and limit < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, limit).astype(int)]
    crops, found = crop_all([rows.images[int(index)] for index in chosen], shape, workers)
    return labels[chosen], crops, found


def _mean_of(correct: NDArray[np.bool_]) -> Callable[[NDArray[np.int64]], float]:
    return lambda drawn: float(correct[drawn].mean())


def table(result: Mapping[str, Any]) -> Table:
    """Tabulate the conditions."""
    rows = []
    for name, figures in result["conditions"].items():
        of_found = figures["accuracy_of_found"]
        rows.append(
            (
                name,
                percent(figures["faces_found"]),
                percent(figures["accuracy"]),
                percent_range(**figures["interval"]),
                "" if of_found is None else percent(of_found),
            )
        )
    return Table(
        "Faces in photos, FER+ by majority",
        ("condition", "faces found %", "accuracy %", "95 %", "accuracy of those found %"),
        tuple(rows),
        f"{result['images']:,} images of {result['split']}, each pasted into a photo of {WIDTH} x {HEIGHT} pixels "
        f"at {SIDE} pixels unless the condition says otherwise. Images without a found face count as wrong.",
    )
