"""Choosing and reporting on different halves of Valid, and on crops that are slightly changed.

What is chosen by its score has a score that is too good. So models, epochs and the temperature are chosen on one
half of Valid, and figures are reported on the other. A score is the mean over fixed readings of each face, because
one reading alone rewards a network for what holds for these very pixels only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.datasets.ferplus import DROPPED, EMOTIONS, argmax_labels, majority_labels
from training.datasets.prepared import PreparedSet, image_digests
from training.networks.inference import Network, predict
from training.protocols.bootstrap import Interval, interval
from training.protocols.calibration import calibration_error

SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""In pixels of a crop: right, down."""

ZOOMS = (0.95, 1.05)

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class ReadingsScore:
    """Means over all readings of the images of one half, 0..1.

    ``low`` and ``high`` bound the accuracy (95 %, bootstrap over images); ``spread`` is the accuracy of the best
    reading minus that of the worst.
    """

    rows: int
    accuracy: float
    low: float
    high: float
    spread: float
    macro_recall: float
    recall: dict[str, float]
    calibration_error: float


def choosing_half(valid: PreparedSet) -> Rows:
    """Return which images of Valid models are chosen on, [n]: about half, by their pixels; the others report."""
    return np.array([digest[0] % 2 == 0 for digest in image_digests(valid)], bool)


def readings(valid: PreparedSet) -> Iterator[NDArray[np.uint8]]:
    """Yield the crops of all images, uint8 [n, C, H, W], in every reading.

    They are the aligned crops, and FER+'s own framing if the set has it, each as it is, mirrored, moved by one
    pixel four ways and zoomed by 5 % both ways.
    """
    for crops in (valid.crops, valid.arrays.get("unaligned")):
        if crops is None:
            continue
        yield np.ascontiguousarray(crops[..., ::-1])
        for right, down in SHIFTS:
            yield _moved(crops, 1.0, right, down)
        for zoom in ZOOMS:
            yield _moved(crops, zoom, 0, 0)


def score_readings(
    network: Network, valid: PreparedSet, rows: Rows, title: str | None = None
) -> dict[str, ReadingsScore]:
    """Score a network's probabilities of some images of Valid by both rules, over all readings.

    An image without a found face counts as wrong in its aligned readings. With a title there is a progress bar.
    """
    half = PreparedSet(
        valid.crops[rows], {name: array[rows] for name, array in valid.arrays.items()}, valid.manifest
    )
    framings = 2 if "unaligned" in half.arrays else 1
    total = framings * (1 + len(SHIFTS) + len(ZOOMS))
    shown = tqdm(readings(half), title, total, unit=" readings", disable=title is None)
    predicted = np.stack([predict(network, crops) for crops in shown])  # [readings, n, 8]
    answered = np.ones(predicted.shape[:2], bool)
    answered[: len(predicted) // framings] = half.aligned
    return {
        name: _score(predicted, answered, labels(half.arrays["votes"]))
        for name, labels in (("majority", majority_labels), ("argmax", argmax_labels))
    }


def _score(
    predicted: NDArray[np.float32], answered: NDArray[np.bool_], labels: NDArray[np.int64]
) -> ReadingsScore:
    kept = labels != DROPPED
    predicted, answered, labels = predicted[:, kept], answered[:, kept], labels[kept]
    correct = (predicted.argmax(axis=2) == labels) & answered  # [readings, n]
    by_image = correct.mean(axis=0)
    bounds: Interval = interval(len(labels), lambda drawn: float(by_image[drawn].mean()))
    by_reading = correct.mean(axis=1)
    recall = {
        emotion: float(by_image[labels == index].mean())
        for index, emotion in enumerate(EMOTIONS)
        if (labels == index).any()
    }
    return ReadingsScore(
        rows=len(labels),
        accuracy=float(by_image.mean()),
        low=bounds.low,
        high=bounds.high,
        spread=float(by_reading.max() - by_reading.min()),
        macro_recall=float(np.mean(list(recall.values()))),
        recall=recall,
        calibration_error=calibration_error(predicted.max(axis=2)[answered], correct[answered]),
    )


def _moved(crops: NDArray[np.uint8], zoom: float, right: int, down: int) -> NDArray[np.uint8]:
    """Zoom crops [n, C, H, W] about their middle and move them; edges are repeated."""
    import cv2  # a machine that trains from a bundle has none

    height, width = crops.shape[2:]
    across, along = (width - 1) / 2 * (1 - zoom) + right, (height - 1) / 2 * (1 - zoom) + down
    matrix = np.array([[zoom, 0, across], [0, zoom, along]], np.float32)
    moved = [
        cv2.warpAffine(channel, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for channel in crops.reshape(-1, height, width)
    ]
    return np.stack(moved).astype(np.uint8).reshape(crops.shape)
