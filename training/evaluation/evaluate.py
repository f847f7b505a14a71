"""Score FER+ images offline and, optionally, through a running service that is sent them one by one."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from service.client import CallFailed, Client
from service.vision.face_pipeline import FacePipeline
from training.datasets.ferplus import EMOTIONS, Split, majority_labels, read_split
from training.datasets.images import EncodedImage
from training.datasets.prepared import ALIGNED
from training.evaluation.contract import read_crop
from training.networks.inference import predict
from training.preparation.cropping import crop_image
from training.protocols.breakdown import Breakdown, break_down
from training.protocols.ferplus import FerPlusScore, score
from training.settings.evaluation import EvaluateSettings
from training.tables import Table

Predictions = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Probabilities [n, 8], and whether a face was found [n]."""


def evaluate(settings: EvaluateSettings) -> None:
    """Score a split, print the scores and write them to a file if one is given.

    Raises:
        ValueError: The service does not answer, rejects an image or has other labels.
    """
    rows = read_split(settings.source, settings.split)
    if settings.limit:
        rows = Split(rows.images[: settings.limit], rows.votes[: settings.limit], rows.missing)
    predictions = {"offline": predict_offline(rows.images, settings.model)}
    if settings.through:
        predictions["service"] = predict_through(rows.images, settings.through)
        (offline, found_offline), (served, found_served) = predictions.values()
        both = found_offline & found_served
        same = (offline.argmax(axis=1) == served.argmax(axis=1))[both].mean()
        print(f"Both give the same emotion on {same:.2%} of the {both.sum():,} images in which both found a face")
    labels = majority_labels(rows.votes)
    scores = {name: score(each, rows.votes, found) for name, (each, found) in predictions.items()}
    details = {name: break_down(each, labels, found) for name, (each, found) in predictions.items()}
    table(scores, details, len(rows.images)).print()
    if settings.out:
        result = {
            name: asdict(value) | {"majority_detail": asdict(details[name])} for name, value in scores.items()
        }
        settings.out.write_text(json.dumps(result, indent=2) + "\n")


def predict_offline(images: Sequence[EncodedImage], model: Path) -> Predictions:
    """Predict with the face pipeline and a TorchScript file in this process."""
    pipeline, shape = FacePipeline(), read_crop(model)
    cropped = [
        crop_image(image.read_bytes(), pipeline, shape) for image in tqdm(images, desc="offline", unit=" images")
    ]
    crops = np.stack([crop for crop, _ in cropped])
    found = np.array([outcome == ALIGNED for _, outcome in cropped])
    network = torch.jit.load(model, map_location="cpu")  # type: ignore[no-untyped-call]
    return predict(network, crops), found


def predict_through(images: Sequence[EncodedImage], url: str) -> Predictions:
    """Predict with a running service; the largest face of each image counts.

    Raises:
        ValueError: The service does not answer, rejects an image or has other labels.
    """
    probabilities = np.zeros((len(images), len(EMOTIONS)), np.float32)
    found = np.zeros(len(images), bool)
    with Client(url) as client:
        for index, image in enumerate(tqdm(images, desc="through the service", unit=" images")):
            try:
                faces = client.read(image.read_bytes()).faces
            except CallFailed as error:
                raise ValueError(f"{image.name} got no answer: {error}") from error
            if faces:
                emotions = faces[0].emotions
                if set(emotions) != set(EMOTIONS):
                    raise ValueError(f"{url} has the labels {sorted(emotions)}; expected {sorted(EMOTIONS)}")
                probabilities[index] = [emotions[emotion] for emotion in EMOTIONS]
                found[index] = True
    return probabilities, found


def table(scores: dict[str, FerPlusScore], details: dict[str, Breakdown], images: int) -> Table:
    """Tabulate the scores under both rules, with an interval for the accuracy by majority."""
    rows = []
    for name, each in scores.items():
        bounds = details[name].accuracy
        for rule, figures, interval in (
            ("majority", each.majority, f"{bounds.low:.4f} to {bounds.high:.4f}"),
            ("argmax", each.argmax, ""),
        ):
            shown = (figures.macro_recall, figures.macro_f1, figures.calibration_error)
            columns = (f"{figures.accuracy:.4f}", interval, *(f"{value:.4f}" for value in shown))
            rows.append((name, rule, f"{figures.rows:,}", *columns))
    missed = ", ".join(f"{each.unanswered:,} {name}" for name, each in scores.items())
    return Table(
        f"FER+, {images:,} images",
        ("", "rule", "rows", "accuracy", "95 % (bootstrap)", "macro recall", "macro F1", "ECE"),
        tuple(rows),
        f"Images without a found face count as wrong: {missed}.",
    )
