"""Every image of a data set through the service's own face pipeline, in several processes, resumable."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from service.errors import TandemError
from service.vision.alignment import crop_faces
from service.vision.decoding import Pixels, decode_photo
from service.vision.face import Face
from service.vision.face_pipeline import FacePipeline
from training.crop_spec import CROP_SIZE, TEMPLATE
from training.datasets.images import EncodedImage, identify
from training.preparation.teacher import Teacher

MAX_PIXELS = 50_000_000
CHUNK = 512
"""Images a part holds; an interrupted run goes on after its last complete part."""

ALIGNED, NO_FACE, UNREADABLE = 0, 1, 2
OUTCOMES = ("aligned", "no face", "unreadable")


@dataclass(frozen=True, eq=False)
class Crops:
    """Grey crops uint8 [n, 48, 48], and how each came about [n]: aligned, no face, or unreadable.

    Where no face was found the crop is the middle of the image; where it is unreadable, black. A teacher's
    embeddings float16 [n, size], where one was asked, are zero for both.
    """

    pixels: NDArray[np.uint8]
    outcomes: NDArray[np.uint8]
    embeddings: NDArray[np.float16] | None = None

    def counts(self) -> dict[str, int]:
        """How many images had each outcome."""
        found = Counter(self.outcomes.tolist())
        return {name: found[index] for index, name in enumerate(OUTCOMES)}


def crop_images(
    images: Sequence[EncodedImage],
    parts: Path,
    *,
    title: str,
    workers: int | None = None,
    teacher: Path | None = None,
) -> Crops:
    """Crop the largest face of each image; complete parts found in the folder ``parts`` are not made again.

    Args:
        images: of the data set.
        parts: folder for what is done.
        title: of the progress bar.
        workers: processes; None for as many as there are cores.
        teacher: ONNX network to take each face's embedding by.

    Raises:
        ValueError: the teacher is none.
    """
    parts.mkdir(parents=True, exist_ok=True)
    taught_by = Teacher(teacher).sha256 if teacher else ""
    chunks = [list(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    targets = [parts / f"{index:05d}-{_fingerprint(chunk, taught_by)}.npz" for index, chunk in enumerate(chunks)]
    todo = [(chunk, target) for chunk, target in zip(chunks, targets, strict=True) if not target.exists()]
    left = sum(len(chunk) for chunk, _ in todo)
    # Forked children of a process with threads may hang; started anew they cannot.
    with (
        tqdm(total=len(images), initial=len(images) - left, desc=title, unit=" images") as progress,
        ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _start_worker, (teacher,)) as pool,
    ):
        for future in as_completed([pool.submit(_crop_chunk, chunk, target) for chunk, target in todo]):
            progress.update(future.result())
    return Crops(
        _join(targets, "pixels", len(images)),
        _join(targets, "outcomes", len(images)),
        _join(targets, "embeddings", len(images)) if teacher else None,
    )


def _join(parts: Sequence[Path], name: str, rows: int) -> NDArray[Any]:
    """One array of all parts, in a file beside them: half a million crops are more than some memories hold."""
    joined: NDArray[Any] | None = None
    filled = 0
    for part in parts:
        with np.load(part) as arrays:
            array = arrays[name]
        if joined is None:
            shape = (rows, *array.shape[1:])
            joined = open_memmap(part.with_name(f"{name}.npy"), "w+", array.dtype, shape)
        joined[filled : filled + len(array)] = array
        filled += len(array)
    if joined is None:
        raise ValueError("there is no image to crop")
    return joined


def _fingerprint(images: Sequence[EncodedImage], teacher: str) -> str:
    """Changes with the images and with the teacher, so that a part of others is not reused."""
    text = "\n".join(map(identify, images)) + teacher
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_finder: FacePipeline | None = None
_teacher: Teacher | None = None


def _start_worker(teacher: Path | None) -> None:
    global _finder, _teacher  # noqa: PLW0603 - what a worker process builds once
    _finder = FacePipeline()
    _teacher = Teacher(teacher) if teacher else None


def _crop_chunk(images: Sequence[EncodedImage], target: Path) -> int:
    assert _finder is not None  # noqa: S101 - _start_worker ran
    arrays: dict[str, NDArray[Any]] = {
        "pixels": np.zeros((len(images), *CROP_SIZE), np.uint8),
        "outcomes": np.full(len(images), UNREADABLE, np.uint8),
    }
    if _teacher:
        arrays["embeddings"] = np.zeros((len(images), _teacher.size), np.float16)
    for index, image in enumerate(images):
        photo, face = _look(_read(image), _finder)
        arrays["pixels"][index], arrays["outcomes"][index] = _crop(photo, face)
        if _teacher and photo is not None and face:
            arrays["embeddings"][index] = _teacher.embed(photo, face)
    unfinished = target.with_suffix(".unfinished.npz")
    np.savez(unfinished, allow_pickle=False, **arrays)
    unfinished.replace(target)
    return len(images)


def _read(image: EncodedImage) -> bytes:
    """Nothing where the file cannot be read: one bad sector is no reason to stop after an hour."""
    try:
        return image.read_bytes()
    except OSError:
        return b""


def crop_image(data: bytes, finder: FacePipeline) -> tuple[NDArray[np.uint8], int]:
    """The crop [48, 48] of the largest face in an encoded image, and how it came about."""
    return _crop(*_look(data, finder))


def _look(data: bytes, finder: FacePipeline) -> tuple[Pixels | None, Face | None]:
    """The photo, and the largest face in it."""
    try:
        photo = decode_photo(data, max_pixels=MAX_PIXELS)
    except TandemError:
        return None, None
    return photo, next(iter(finder.find_faces(photo)), None)


def _crop(photo: Pixels | None, face: Face | None) -> tuple[NDArray[np.uint8], int]:
    if photo is None:
        return np.zeros(CROP_SIZE, np.uint8), UNREADABLE
    if face:
        return crop_faces(photo, [face], template=TEMPLATE, size=CROP_SIZE)[0, 0], ALIGNED
    return _middle(photo), NO_FACE


def crop_middle(image: EncodedImage) -> NDArray[np.uint8]:
    """The crop [48, 48] of an image's middle, whatever it shows; black where it cannot be read."""
    try:
        return _middle(decode_photo(_read(image), max_pixels=MAX_PIXELS))
    except TandemError:
        return np.zeros(CROP_SIZE, np.uint8)


def _middle(photo: Pixels) -> NDArray[np.uint8]:
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    middle = cv2.cvtColor(photo[top : top + side, left : left + side], cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(middle, CROP_SIZE, interpolation=cv2.INTER_AREA), np.uint8)
