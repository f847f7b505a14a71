"""How long each step of the recipe takes on this machine, from a few images and one training step."""

import os
import time
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch

from service.vision.face_pipeline import FacePipeline
from training.crop_spec import CropShape
from training.datasets.images import EncodedImage
from training.networks.tandem import build_backbone
from training.preparation.cropping import find_face
from training.preparation.teacher import Teacher
from training.recipe.data import Source
from training.recipe.stages import IDENTITY_NETWORK
from training.settings.commands import RecipeSettings
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings, StageSettings
from training.stages.trainer import resolve_precision

SAMPLED_IMAGES = 8
MEASURED_BATCH = 64
BESIDES = 1.2
"""A stage takes longer than its passes: augmentation, validation, what it is distilled from."""

START_SECONDS = 10.0
"""Starting worker processes, reading data, writing checkpoints."""

EXPORT_SECONDS = 60.0
READINGS = 16
FORWARD = 1 / 3
"""Share of the forward pass in a training step."""


def seconds_to_prepare(source: Source, teacher: Teacher | None) -> float:
    """Estimate the preparation of a data set from some of its images."""
    per_image = _seconds_per_image(source.images, teacher)
    return START_SECONDS + per_image * len(source.images) / (os.cpu_count() or 1)


def seconds_to_train(stage: StageSettings, settings: RecipeSettings, sources: Mapping[str, Source]) -> float:
    """Estimate a stage from training steps of its networks."""
    images = sources["identity" if isinstance(stage, IdentitySettings) else "ferplus"].trained_on
    return START_SECONDS + BESIDES * stage.epochs * images * _seconds_per_crop(stage, settings)


def seconds_to_export(joint: StageSettings, settings: RecipeSettings, sources: Mapping[str, Source]) -> float:
    """Estimate the export, which scores Valid in many readings."""
    answers = READINGS * sources["ferplus"].validated_on
    return EXPORT_SECONDS + answers * _seconds_per_crop(joint, settings) * FORWARD


def _seconds_per_image(images: Sequence[EncodedImage], teacher: Teacher | None) -> float:
    pipeline = FacePipeline()
    rows = np.linspace(0, len(images) - 1, SAMPLED_IMAGES).astype(int)
    started = time.perf_counter()
    for row in rows:
        pixels, face = find_face(images[row].read_bytes(), pipeline)
        if teacher and pixels is not None and face:
            teacher.embed(pixels, face)
    return (time.perf_counter() - started) / len(rows)


def _seconds_per_crop(stage: StageSettings, settings: RecipeSettings) -> float:
    """Measure a training step of the networks of a stage."""
    names = [IDENTITY_NETWORK, settings.network] if isinstance(stage, JointSettings) else [_network(stage)]
    precision = resolve_precision(stage)
    on_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    return sum(_measure(name, settings.crop_shape, precision, device) for name in names) / settings.devices


def _network(stage: StageSettings) -> str:
    assert isinstance(stage, IdentitySettings | EmotionSettings)  # noqa: S101 - the recipe has no others
    return stage.network


@cache
def _measure(network: str, shape: CropShape, precision: str, device: str) -> float:
    """Return the seconds that a network takes to learn from a crop."""
    backbone = build_backbone(network, shape).to(device)
    crops = torch.zeros(MEASURED_BATCH, *shape, device=device)
    number = torch.float16 if precision == "16-mixed" else torch.bfloat16
    seconds = 0.0
    for _ in range(2):  # the first step takes longer
        started = time.perf_counter()
        with torch.autocast(device, dtype=number, enabled=precision != "32-true"):
            loss = backbone(crops).float().mean()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds / MEASURED_BATCH
