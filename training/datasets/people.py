"""Faces by person in the form of CASIA-WebFace: a folder for each person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.images import EncodedImage

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, eq=False)
class People:
    """Images, the index of the person in each [images], and the names of the people by index."""

    images: Sequence[EncodedImage]
    labels: NDArray[np.int64]
    names: list[str]


def read_people(folder: Path) -> People:
    """List the images in the folder of each person.

    Raises:
        ValueError: Fewer than two people have an image.
    """
    names: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        images = sorted(path for path in person.iterdir() if path.suffix.lower() in SUFFIXES)
        if images:
            labels += [len(names)] * len(images)
            names.append(person.name)
            paths += images
    if len(names) < 2:
        raise ValueError(f"{folder} holds images of {len(names)} people; at least 2 people are needed")
    return People(paths, np.array(labels, np.int64), names)
