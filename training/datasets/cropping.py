"""Every image of a data set through the service's own face pipeline, in several processes, resumable."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.errors import TandemError
from service.faces.alignment import crop_faces
from service.faces.decode import decode_photo
from service.faces.pipeline import FaceFinder
from training.framing import CROP_SIZE, TEMPLATE

MAX_PIXELS = 50_000_000
CHUNK = 512
"""Images a part holds; an interrupted run goes on after its last complete part."""

ALIGNED, NO_FACE, UNREADABLE = 0, 1, 2
OUTCOMES = ("aligned", "no face", "unreadable")


@dataclass(frozen=True, eq=False)
class Crops:
    """Grey crops uint8 [n, 48, 48], and how each came about [n]: aligned, no face, or unreadable.

    Where no face was found the crop is the middle of the image; where it is unreadable, black.
    """

    pixels: NDArray[np.uint8]
    outcomes: NDArray[np.uint8]

    def counts(self) -> dict[str, int]:
        """How many images had each outcome."""
        found = Counter(self.outcomes.tolist())
        return {name: found[index] for index, name in enumerate(OUTCOMES)}


def crop_images(paths: Sequence[Path], parts: Path, *, title: str, workers: int | None = None) -> Crops:
    """Crop the largest face of each image; complete parts found in the folder ``parts`` are not made again."""
    parts.mkdir(parents=True, exist_ok=True)
    chunks = [list(paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK)]
    targets = [parts / f"{index:05d}-{_fingerprint(chunk)}.npz" for index, chunk in enumerate(chunks)]
    todo = [(chunk, target) for chunk, target in zip(chunks, targets, strict=True) if not target.exists()]
    left = sum(len(chunk) for chunk, _ in todo)
    # Forked children of a process with threads may hang; started anew they cannot.
    with (
        tqdm(total=len(paths), initial=len(paths) - left, desc=title, unit=" images") as progress,
        ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _start_worker) as pool,
    ):
        for future in as_completed([pool.submit(_crop_chunk, chunk, target) for chunk, target in todo]):
            progress.update(future.result())
    loaded = [np.load(target) for target in targets]
    return Crops(
        np.concatenate([part["pixels"] for part in loaded]), np.concatenate([part["outcomes"] for part in loaded])
    )


def _fingerprint(paths: Sequence[Path]) -> str:
    """Changes with the list of images and with what each weighs, so that a part of other images is not reused."""
    text = "\n".join(f"{path} {path.stat().st_size}" for path in paths)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_finder: FaceFinder | None = None


def _start_worker() -> None:
    global _finder  # noqa: PLW0603 - the one thing a worker process builds once
    cv2.setNumThreads(1)
    _finder = FaceFinder()


def _crop_chunk(paths: Sequence[Path], target: Path) -> int:
    assert _finder is not None  # noqa: S101 - _start_worker ran
    pixels = np.zeros((len(paths), *CROP_SIZE), np.uint8)
    outcomes = np.full(len(paths), UNREADABLE, np.uint8)
    for index, path in enumerate(paths):
        pixels[index], outcomes[index] = crop_image(path.read_bytes(), _finder)
    unfinished = target.with_suffix(".unfinished.npz")
    np.savez(unfinished, pixels=pixels, outcomes=outcomes)
    unfinished.replace(target)
    return len(paths)


def crop_image(data: bytes, finder: FaceFinder) -> tuple[NDArray[np.uint8], int]:
    """The crop [48, 48] of the largest face in an encoded image, and how it came about."""
    try:
        photo = decode_photo(data, max_pixels=MAX_PIXELS)
    except TandemError:
        return np.zeros(CROP_SIZE, np.uint8), UNREADABLE
    faces = finder.find(photo)
    if faces:
        return crop_faces(photo, faces[:1], template=TEMPLATE, size=CROP_SIZE)[0, 0], ALIGNED
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    middle = cv2.cvtColor(photo[top : top + side, left : left + side], cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(middle, CROP_SIZE, interpolation=cv2.INTER_AREA), np.uint8), NO_FACE
