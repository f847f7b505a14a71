"""How well faces are read in photos that are not like FER+'s: small, blurred, turned, dark, compressed.

Each face is pasted into a larger photo, spoilt, sent through the whole face pipeline and the served network.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets.ferplus import DROPPED, majority_labels, read_split
from training.evaluation.robustness_photos import CONDITIONS, HEIGHT, SIDE, WIDTH, crop_all
from training.protocols.bootstrap import interval
from training.settings.evaluation import RobustnessSettings
from training.tables import Table, share, share_between
from training.trained_networks import predict


def measure(settings: RobustnessSettings) -> None:
    """Score every condition, print the table, and write the figures where asked for."""
    rows = read_split(settings.source, settings.split)
    labels = majority_labels(rows.votes)
    chosen = np.flatnonzero(labels != DROPPED)
    if settings.limit and settings.limit < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, settings.limit).astype(int)]
    images, labels = [rows.images[int(index)] for index in chosen], labels[chosen]
    network = torch.jit.load(settings.model, map_location="cpu")  # type: ignore[no-untyped-call]
    crops, found = crop_all(images, settings.workers)
    conditions: dict[str, Any] = {}
    for index, name in enumerate(CONDITIONS):
        answers = predict(network, np.ascontiguousarray(crops[:, index])).argmax(axis=1)
        right = (answers == labels) & found[:, index]
        bounds = interval(len(right), _mean_of(right))
        conditions[name] = {
            "faces_found": float(found[:, index].mean()),
            "accuracy": float(right.mean()),
            "interval": {"low": bounds.low, "high": bounds.high},
            "accuracy_of_found": float(right[found[:, index]].mean()) if found[:, index].any() else None,
        }
    result = {"split": settings.split, "images": len(images), "conditions": conditions}
    if settings.out:
        settings.out.write_text(json.dumps(result, indent=2) + "\n")
    table(result).print()


def _mean_of(right: NDArray[np.bool_]) -> Callable[[NDArray[np.int64]], float]:
    return lambda drawn: float(right[drawn].mean())


def table(result: Mapping[str, Any]) -> Table:
    """One row a condition."""
    rows = []
    for name, figures in result["conditions"].items():
        of_found = figures["accuracy_of_found"]
        rows.append(
            (
                name,
                share(figures["faces_found"]),
                share(figures["accuracy"]),
                share_between(**figures["interval"]),
                "" if of_found is None else share(of_found),
            )
        )
    return Table(
        "Faces in photos, FER+ by majority",
        ("condition", "faces found %", "accuracy %", "95 %", "accuracy of those found %"),
        tuple(rows),
        f"{result['images']:,} images of {result['split']}, each pasted into a photo of {WIDTH} x {HEIGHT} pixels "
        f"at {SIDE} pixels unless said otherwise; no face found counts as wrong.",
    )
