"""FER+ scored twice on the same images: offline, and by a running service that gets them one by one."""

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from service.vision.face_pipeline import FacePipeline
from training.datasets.ferplus import EMOTIONS, Split, majority_labels, read_split
from training.datasets.images import EncodedImage
from training.preparation.cropping import ALIGNED, crop_image
from training.protocols.breakdown import Breakdown, break_down
from training.protocols.ferplus import FerPlusScore, score
from training.settings.stages import EvaluateSettings
from training.trained_networks import predict

Answers = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Probabilities [n, 8], and whether a face was found [n]."""


def evaluate(settings: EvaluateSettings) -> None:
    """Score the chosen rows, print both tables, and write the figures where asked for.

    Raises:
        ValueError: the service refuses an image or answers with other labels.
    """
    rows = read_split(settings.source, settings.split)
    if settings.limit:
        rows = Split(rows.images[: settings.limit], rows.votes[: settings.limit], rows.missing)
    offline = answer_offline(rows.images, settings.model)
    scores = {"offline": score(offline[0], rows.votes, offline[1])}
    if settings.through:
        served = answer_through(rows.images, settings.through)
        scores["service"] = score(served[0], rows.votes, served[1])
        both = offline[1] & served[1]
        same = (offline[0].argmax(axis=1) == served[0].argmax(axis=1))[both].mean()
        print(f"Same emotion from both on {same:.2%} of the {both.sum():,} images in which both found a face")
    details = {"offline": break_down(offline[0], majority_labels(rows.votes), offline[1])}
    if settings.through:
        details["service"] = break_down(served[0], majority_labels(rows.votes), served[1])
    _print(scores, details, len(rows.images))
    if settings.out:
        figures = {
            name: value.as_dict() | {"majority_detail": details[name].as_dict()} for name, value in scores.items()
        }
        settings.out.write_text(json.dumps(figures, indent=2) + "\n")


def answer_offline(images: Sequence[EncodedImage], model: Path) -> Answers:
    """By the face pipeline and a TorchScript file in this process."""
    finder = FacePipeline()
    cropped = [crop_image(image.read_bytes(), finder) for image in tqdm(images, desc="offline", unit=" images")]
    crops = np.stack([crop for crop, _ in cropped])
    found = np.array([outcome == ALIGNED for _, outcome in cropped])
    network = torch.jit.load(model, map_location="cpu")  # type: ignore[no-untyped-call]
    return predict(network, crops), found


def answer_through(images: Sequence[EncodedImage], url: str) -> Answers:
    """By a running service; of several faces the largest counts."""
    probabilities = np.zeros((len(images), len(EMOTIONS)), np.float32)
    found = np.zeros(len(images), bool)
    with httpx.Client(base_url=url, timeout=60) as client:
        for index, image in enumerate(tqdm(images, desc="through the service", unit=" images")):
            response = client.post(
                "/v1/emotions", content=image.read_bytes(), headers={"Content-Type": "image/png"}
            )
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"{url} answers {response.status_code} to {image.name}: {response.text}")
            faces = response.json()["faces"]
            if faces:
                emotions = faces[0]["emotions"]
                if set(emotions) != set(EMOTIONS):
                    raise ValueError(f"{url} answers with {sorted(emotions)}; FER+ has {sorted(EMOTIONS)}")
                probabilities[index] = [emotions[emotion] for emotion in EMOTIONS]
                found[index] = True
    return probabilities, found


def _print(scores: dict[str, FerPlusScore], details: dict[str, Breakdown], images: int) -> None:
    table = Table(
        "", "rule", "rows", "accuracy", "macro recall", "macro F1", "ECE", title=f"FER+, {images:,} images"
    )
    for name, reached in scores.items():
        for rule, figures in (("majority", reached.majority), ("argmax", reached.argmax)):
            shown = (figures.accuracy, figures.macro_recall, figures.macro_f1, figures.calibration_error)
            table.add_row(name, rule, f"{figures.rows:,}", *(f"{value:.4f}" for value in shown))
    console = Console()
    console.print(table)
    for name, reached in scores.items():
        bounds = details[name].accuracy
        console.print(f"{name}: no face found in {reached.unanswered:,}; these count as wrong")
        console.print(f"{name}: accuracy by majority {bounds.low:.4f} to {bounds.high:.4f} (95 %, bootstrap)")
