"""Photos composed of a face and a background, degraded in several ways, and cropped by the face pipeline."""

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.errors import TandemError
from service.vision.decoding import decode_photo
from service.vision.face import Face
from service.vision.face_pipeline import FacePipeline
from training.crop_spec import CROP_SHAPE, CropShape
from training.datasets.images import EncodedImage
from training.preparation.cropping import MAX_PIXELS, cut_face

HEIGHT, WIDTH = 480, 640
"""Size in pixels of the photo that a face is pasted into."""

SIDE = 160
"""Side of the pasted face in pixels, unless the condition sets another."""

CHUNK = 32


@dataclass(frozen=True)
class Condition:
    """One way to degrade a photo."""

    side: int = SIDE
    """Side of the face in pixels."""
    rotation: float = 0.0
    """Rotation of the photo about its face in degrees; positive is counterclockwise."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur, as a fraction of the face's side."""
    light: float = 1.0
    """Factor that all values are multiplied by, 0 to 1."""
    quality: int = 95
    """JPEG quality, 0 to 100."""


CONDITIONS: Mapping[str, Condition] = {
    "face of 160 px": Condition(),
    "face of 320 px": Condition(side=320),
    "face of 96 px": Condition(side=96),
    "face of 48 px": Condition(side=48),
    "face of 32 px": Condition(side=32),
    "rotated +30°": Condition(rotation=30),
    "rotated -30°": Condition(rotation=-30),
    "blur, 2 % of the face": Condition(blur=0.02),
    "blur, 5 % of the face": Condition(blur=0.05),
    "a third of the light": Condition(light=1 / 3),
    "a tenth of the light": Condition(light=0.1),
    "JPEG quality 30": Condition(quality=30),
    "48 px, dark, JPEG quality 30": Condition(side=48, light=1 / 3, quality=30),
}


def make_photo(face: NDArray[np.uint8], condition: Condition) -> bytes:
    """Return a JPEG photo of ``WIDTH`` x ``HEIGHT`` with a face [H, W, 3] in its center, degraded by a condition.

    The background is the image of the face itself, enlarged and blurred beyond recognition, so that its gray
    values continue around it.
    """
    background = cv2.GaussianBlur(face, (0, 0), face.shape[0] / 8, borderType=cv2.BORDER_REPLICATE)
    wide = cv2.resize(background, (WIDTH, WIDTH), interpolation=cv2.INTER_LINEAR)
    photo = wide[(WIDTH - HEIGHT) // 2 :][:HEIGHT].copy()
    interpolation = cv2.INTER_CUBIC if condition.side > face.shape[0] else cv2.INTER_AREA
    top, left = (HEIGHT - condition.side) // 2, (WIDTH - condition.side) // 2
    pasted = cv2.resize(face, (condition.side, condition.side), interpolation=interpolation)
    photo[top : top + condition.side, left : left + condition.side] = pasted
    if condition.rotation:
        matrix = cv2.getRotationMatrix2D((WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5), condition.rotation, 1)
        photo = cv2.warpAffine(
            photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
    if condition.blur:
        photo = cv2.GaussianBlur(photo, (0, 0), condition.blur * condition.side)
    if condition.light != 1:
        photo = (photo * condition.light).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, condition.quality]
    return cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def find_pasted(faces: list[Face], side: int) -> Face | None:
    """Return the largest face whose center lies on the pasted one; any other face is a false detection."""
    for face in faces:
        x, y = face.box.x + face.box.width / 2, face.box.y + face.box.height / 2
        if max(abs(x - WIDTH / 2), abs(y - HEIGHT / 2)) <= side / 2:
            return face
    return None


def crop_all(
    images: list[EncodedImage], shape: CropShape = CROP_SHAPE, workers: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Crop every image under every condition.

    Returns:
        Crops [images, conditions, C, H, W], black without a face, and whether it was found [images, conditions].
    """
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    crops, found = [], []
    with (
        tqdm(total=len(images) * len(CONDITIONS), desc="robustness", unit=" photos") as progress,
        ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _start_worker) as pool,
    ):
        for chunk, (chunk_crops, chunk_found) in zip(
            chunks, pool.map(partial(_crop_chunk, shape), chunks), strict=True
        ):
            crops.append(chunk_crops)
            found.append(chunk_found)
            progress.update(len(chunk) * len(CONDITIONS))
    return np.concatenate(crops), np.concatenate(found)


_pipeline: FacePipeline | None = None


def _start_worker() -> None:
    global _pipeline  # noqa: PLW0603 - built once in each worker process
    _pipeline = FacePipeline()


def _crop_chunk(shape: CropShape, images: list[EncodedImage]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    assert _pipeline is not None  # noqa: S101 - _start_worker ran
    crops = np.zeros((len(images), len(CONDITIONS), *shape), np.uint8)
    found = np.zeros((len(images), len(CONDITIONS)), bool)
    for row, image in enumerate(images):
        try:
            picture = decode_photo(image.read_bytes(), max_pixels=MAX_PIXELS)
        except TandemError:
            continue  # counts as an image without a face
        for column, condition in enumerate(CONDITIONS.values()):
            photo = decode_photo(make_photo(picture, condition), max_pixels=MAX_PIXELS)
            face = find_pasted(_pipeline.find_faces(photo), condition.side)
            if face:
                crops[row, column] = cut_face(photo, face, shape)
                found[row, column] = True
    return crops, found
