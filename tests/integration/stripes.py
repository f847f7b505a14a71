"""Made-up prepared sets that a network can learn, and the options that make a stage small enough for a test."""

from pathlib import Path

import numpy as np

from training.datasets.cropping import Crops
from training.datasets.prepared import write_prepared

COMMON = ["--batch_size", "16", "--precision", "32-true", "--accelerator", "cpu", "--warmup_epochs", "0"]


def stripes(labels: np.ndarray) -> np.ndarray:
    """uint8 [n, 48, 48]: the class 0..7 is the direction and the width of stripes."""
    count = len(labels)
    random = np.random.default_rng(count)
    rows, columns = np.indices((48, 48))
    places = np.where((labels % 2)[:, None, None], rows, columns) + random.integers(0, 48, (count, 1, 1))
    waves = np.sin(places * 2 * np.pi / np.array([3, 6, 12, 24])[labels // 2][:, None, None])
    return (127 + 90 * waves + random.normal(0, 15, (count, 48, 48))).clip(0, 255).astype(np.uint8)


def write_set(folder: Path, labels: np.ndarray, /, **arrays: np.ndarray) -> None:
    """A prepared set of stripes, all of them aligned."""
    count = len(labels)
    crops = Crops(stripes(labels), np.zeros(count, np.uint8))
    write_prepared(folder, folder, crops, np.ones(count, bool), arrays, {})


def votes(labels: np.ndarray) -> np.ndarray:
    """All ten for one emotion."""
    return np.eye(10, dtype=np.int64)[labels] * 10


def write_sets(folder: Path, count: int = 96) -> Path:
    """Faces by person, and FER+ with train and valid."""
    labels = np.arange(count) % 8
    write_set(folder / "identity", labels, labels=labels)
    for split in ("train", "valid"):
        write_set(folder / "ferplus" / split, labels, votes=votes(labels))
    return folder


def flat(options: dict) -> list[str]:
    """As a command line has them."""
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]
