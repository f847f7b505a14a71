"""Crop every image of a data set with the service's own face pipeline, in parallel and resumably."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from service.errors import TandemError
from service.vision.alignment import AffineMatrix, crop_faces, similarity_transform
from service.vision.decoding import Pixels, decode_photo
from service.vision.face import Face
from service.vision.face_pipeline import FacePipeline
from training.crop_spec import CROP_SHAPE, CROP_SIZE, MARGIN, TEMPLATE, CropShape
from training.datasets.images import EncodedImage, image_key
from training.datasets.prepared import ALIGNED, NO_FACE, UNREADABLE, Crops
from training.preparation.teacher import Teacher

MAX_PIXELS = 50_000_000
WIDE_SIZE = (CROP_SIZE[0] + 2 * MARGIN, CROP_SIZE[1] + 2 * MARGIN)
WIDE_TEMPLATE = (TEMPLATE * CROP_SIZE[::-1] + MARGIN) / WIDE_SIZE[::-1]
"""Where the landmarks are in a wide crop, (x, y) as fractions of it."""

PART_SIZE = 512
"""Images in a part. An interrupted preparation resumes after the parts that are complete."""


def crop_images(
    images: Sequence[EncodedImage],
    parts: Path,
    *,
    title: str,
    shape: CropShape = CROP_SHAPE,
    workers: int | None = None,
    teacher: Path | None = None,
    unaligned: bool = False,
    wide: bool = False,
    central: bool = False,
) -> Crops:
    """Crop the largest face of each image, or the one nearest to its center.

    Args:
        images: Images of the data set.
        parts: Folder for finished parts; those found there are not made again.
        title: Title of the progress bar.
        shape: (channels, height, width) of a crop.
        workers: Worker processes; None starts one for each core.
        teacher: ONNX network to compute an embedding of each face with.
        unaligned: Whether to keep the middle of each image, too, and where the aligned crop lies in it.
        wide: Whether to keep a wider gray crop of each face, too.
        central: Whether to take the face nearest to the center of the image, not the largest.

    Raises:
        ValueError: The teacher cannot be used, or there are no images.
    """
    parts.mkdir(parents=True, exist_ok=True)
    extra = (
        ("unaligned matrices" if unaligned else "") + (" wide" if wide else "") + (" central" if central else "")
    )
    extra += "" if shape == CROP_SHAPE else f" {shape}"
    options = f"{Teacher(teacher).sha256 if teacher else ''} {extra or False}"
    chunks = [list(images[start : start + PART_SIZE]) for start in range(0, len(images), PART_SIZE)]
    targets = [parts / f"{index:05d}-{_fingerprint(chunk, options)}.npz" for index, chunk in enumerate(chunks)]
    todo = [(chunk, target) for chunk, target in zip(chunks, targets, strict=True) if not target.exists()]
    left = sum(len(chunk) for chunk, _ in todo)
    # Forking a process with threads can deadlock, so workers are spawned.
    with (
        tqdm(total=len(images), initial=len(images) - left, desc=title, unit=" images") as progress,
        ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _start_worker, (teacher,)) as pool,
    ):
        for future in as_completed(
            [pool.submit(_crop_chunk, chunk, target, shape, unaligned, wide, central) for chunk, target in todo]
        ):
            progress.update(future.result())
    return Crops(
        _join(targets, "pixels", len(images)),
        _join(targets, "outcomes", len(images)),
        unaligned=_join(targets, "unaligned", len(images)) if unaligned else None,
        matrices=_join(targets, "matrices", len(images)) if unaligned else None,
        wide=_join(targets, "wide", len(images)) if wide else None,
        embeddings=_join(targets, "embeddings", len(images)) if teacher else None,
    )


def _join(parts: Sequence[Path], name: str, rows: int) -> NDArray[Any]:
    """Join one array of all parts in a memory-mapped file, because large sets do not fit into memory."""
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
        raise ValueError("there are no images to crop")
    return joined


def _fingerprint(images: Sequence[EncodedImage], options: str) -> str:
    """Identify the images and options of a part, so that it is not reused for others."""
    text = "\n".join(map(image_key, images)) + options
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_pipeline: FacePipeline | None = None
_teacher: Teacher | None = None


def _start_worker(teacher: Path | None) -> None:
    global _pipeline, _teacher  # noqa: PLW0603 - built once in each worker process
    _pipeline = FacePipeline()
    _teacher = Teacher(teacher) if teacher else None


def _crop_chunk(
    images: Sequence[EncodedImage], target: Path, shape: CropShape, unaligned: bool, wide: bool, central: bool
) -> int:
    assert _pipeline is not None  # noqa: S101 - _start_worker ran
    arrays: dict[str, NDArray[Any]] = {
        "pixels": np.zeros((len(images), *shape), np.uint8),
        "outcomes": np.full(len(images), UNREADABLE, np.uint8),
    }
    if unaligned:
        arrays["unaligned"] = np.zeros((len(images), *shape), np.uint8)
        arrays["matrices"] = np.tile(np.eye(2, 3, dtype=np.float32), (len(images), 1, 1))
    if wide:
        arrays["wide"] = np.zeros((len(images), *WIDE_SIZE), np.uint8)
    if _teacher:
        arrays["embeddings"] = np.zeros((len(images), _teacher.size), np.float16)
    for index, image in enumerate(images):
        pixels, face = find_face(_read(image), _pipeline, central=central)
        arrays["pixels"][index], arrays["outcomes"][index] = _crop(pixels, face, shape)
        if unaligned and pixels is not None:
            arrays["unaligned"][index] = _crop_middle(pixels, shape)
            if face:
                arrays["matrices"][index] = _from_middle(pixels, face, shape)
        if wide and pixels is not None and face:
            arrays["wide"][index] = crop_faces(pixels, [face], template=WIDE_TEMPLATE, size=WIDE_SIZE)[0, 0]
        if _teacher and pixels is not None and face:
            arrays["embeddings"][index] = _teacher.embed(pixels, face)
    unfinished = target.with_suffix(".unfinished.npz")
    np.savez(unfinished, allow_pickle=False, **arrays)
    unfinished.replace(target)
    return len(images)


def _read(image: EncodedImage) -> bytes:
    """Read an image; an unreadable file gives no bytes, so that one bad sector does not stop a long run."""
    try:
        return image.read_bytes()
    except OSError:
        return b""


def crop_image(
    photo: bytes, pipeline: FacePipeline, shape: CropShape = CROP_SHAPE
) -> tuple[NDArray[np.uint8], int]:
    """Return the crop [C, H, W] of the largest face in an encoded photo, and its outcome."""
    return _crop(*find_face(photo, pipeline), shape)


def find_face(photo: bytes, pipeline: FacePipeline, *, central: bool = False) -> tuple[Pixels | None, Face | None]:
    """Decode a photo and find the largest face in it, or the one nearest to its center."""
    try:
        pixels = decode_photo(photo, max_pixels=MAX_PIXELS)
    except TandemError:
        return None, None
    faces = pipeline.find_faces(pixels)
    if central and faces:
        middle = np.array(pixels.shape[1::-1]) / 2
        return pixels, min(faces, key=lambda face: float(np.linalg.norm(face.landmarks.mean(axis=0) - middle)))
    return pixels, next(iter(faces), None)


def _crop(pixels: Pixels | None, face: Face | None, shape: CropShape) -> tuple[NDArray[np.uint8], int]:
    if pixels is None:
        return np.zeros(shape, np.uint8), UNREADABLE
    if face:
        return cut_face(pixels, face, shape), ALIGNED
    return _crop_middle(pixels, shape), NO_FACE


def cut_face(pixels: Pixels, face: Face, shape: CropShape) -> NDArray[np.uint8]:
    """Return the aligned crop [C, H, W] of a face."""
    channels, height, width = shape
    crops = crop_faces(pixels, [face], template=TEMPLATE, size=(height, width), channels=channels)
    return np.asarray(crops[0], np.uint8)


def _middle(pixels: Pixels) -> tuple[int, int, int]:
    """Return the side, top and left of the square in the middle of a photo."""
    side = min(pixels.shape[:2])
    return side, (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2


def _crop_middle(pixels: Pixels, shape: CropShape) -> NDArray[np.uint8]:
    side, top, left = _middle(pixels)
    channels, height, width = shape
    middle = pixels[top : top + side, left : left + side]
    if channels == 1:
        middle = np.asarray(cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY), np.uint8)
    interpolation = cv2.INTER_CUBIC if side < height else cv2.INTER_AREA
    resized = np.asarray(cv2.resize(middle, (width, height), interpolation=interpolation), np.uint8)
    return resized[None] if channels == 1 else resized.transpose(2, 0, 1)


def _from_middle(pixels: Pixels, face: Face, shape: CropShape) -> AffineMatrix:
    """Return the transform [2, 3] from pixels of the middle, as ``_crop_middle`` cuts it, to those of the crop."""
    side, top, left = _middle(pixels)
    _, height, width = shape
    scale = height / side
    landmarks = (face.landmarks - (left, top) + 0.5) * scale - 0.5  # pixel centers
    return similarity_transform(landmarks, TEMPLATE * (width, height))
