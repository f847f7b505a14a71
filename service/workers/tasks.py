"""The tasks of a worker: from a photo's bytes to the face crops that Triton receives, and the answer drawn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.observability.timing import StageTimer, StageTiming
from service.schemas import PhotoEmotions
from service.vision.alignment import crop_boxes, crop_faces
from service.vision.cutout import cut_out, data_url
from service.vision.decoding import EncodedPhoto, open_photo
from service.vision.drawing import annotate, check_sides
from service.vision.face import Box, Face
from service.vision.face_pipeline import FacePipeline
from service.vision.quality import QUALITY_SIZE, FaceQuality, measure_quality

DETAIL = 2
"""Faces are cropped from the reduced photo if the shorter side of every box there is at least this many times the
crop's longer side; otherwise the photo is decoded at full size."""

Reserve = Callable[[int], None]
"""Waits until that many bytes of memory are reserved for the task; they are released when it is done."""

Reply = tuple[Any, bytes]
"""What a task returns to the gateway: fields that JSON can carry, and raw bytes."""


@dataclass(frozen=True)
class DetectionOptions:
    """Which faces a caller asks for.

    Attributes:
        max_faces: How many at most, largest first.
        min_face_size: Minimum length of the shorter side of a face's box, in pixels.
        threshold: Minimum detection score, from 0 to 1.
        cutouts: Whether the faces are wanted as pictures too.
    """

    max_faces: int
    min_face_size: float
    threshold: float
    cutouts: bool = False


@dataclass(frozen=True, eq=False)
class CropSpec:
    """How the served model wants faces cropped.

    Attributes:
        size: (height, width) in pixels.
        template: float64 [5, 2], where the landmarks should lie, x and y as fractions of the crop.
        box_template: float64 [4], where the box should lie in a second crop: left, top, right and bottom as
            fractions of it. None if no second crop is wanted.
        channels: 1 for gray crops, 3 for RGB.
    """

    size: tuple[int, int]
    template: NDArray[np.float64]
    box_template: NDArray[np.float64] | None
    channels: int = 1


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """Crops of faces, uint8 [N, channels, height, width], and the quality of each.

    ``aligned`` are cut by the landmarks; ``boxed`` by the boxes, if the model has a template for them.
    """

    aligned: NDArray[np.uint8]
    boxed: NDArray[np.uint8] | None
    qualities: list[FaceQuality]

    def to_reply(self) -> Reply:
        """Return the reply that ``from_reply`` reads."""
        raw = self.aligned.tobytes() + (b"" if self.boxed is None else self.boxed.tobytes())
        return [astuple(each) for each in self.qualities], raw

    @classmethod
    def from_reply(cls, fields: Any, raw: bytes, *, crop: CropSpec) -> "FaceCrops":
        """Read a reply; any exception means that it is malformed."""
        qualities = [
            FaceQuality(float(roll), float(yaw), float(size), float(sharpness), float(brightness), tuple(reasons))
            for roll, yaw, size, sharpness, brightness, reasons in fields
        ]
        framings = 1 if crop.box_template is None else 2
        pixels = np.frombuffer(raw, np.uint8).reshape(framings, len(qualities), crop.channels, *crop.size)
        return cls(pixels[0], pixels[1] if framings == 2 else None, qualities)


@dataclass(frozen=True, eq=False)
class WorkerResult:
    """The faces that a caller asked for in a photo of ``size`` (height, width), and the stages of finding them.

    ``cutouts`` has the data: URL of a picture of each face, or None where they are not wanted.
    """

    size: tuple[int, int]
    faces: list[Face]
    crops: FaceCrops
    stages: list[StageTiming]
    cutouts: list[str | None]

    def to_reply(self) -> Reply:
        """Return the reply that ``from_reply`` reads."""
        faces = [[astuple(each.box), each.score, each.landmarks.tolist(), each.hidden] for each in self.faces]
        qualities, raw = self.crops.to_reply()
        return [self.size, faces, qualities, self.stages, self.cutouts], raw

    @classmethod
    def from_reply(cls, fields: Any, raw: bytes, *, crop: CropSpec) -> "WorkerResult":
        """Read a reply; any exception means that it is malformed."""
        (height, width), faces, qualities, stages, cutouts = fields
        crops = FaceCrops.from_reply(qualities, raw, crop=crop)
        if not len(faces) == len(crops.qualities) == len(cutouts):
            raise ValueError(f"{len(faces)} faces, {len(crops.qualities)} qualities, {len(cutouts)} cutouts")
        return cls(
            (int(height), int(width)),
            [
                Face(
                    Box(*map(float, box)), float(score), np.array(points, np.float32).reshape(5, 2), float(hidden)
                )
                for box, score, points, hidden in faces
            ],
            crops,
            [(str(name), float(start), float(end)) for name, start, end in stages],
            [None if url is None else str(url) for url in cutouts],
        )


@cache
def face_pipeline() -> FacePipeline:
    """Return the pipeline that all tasks of this process share."""
    return FacePipeline()


def find_faces(
    reserve: Reserve,
    photo: bytes,
    *,
    max_pixels: int,
    options: DetectionOptions,
    crop: CropSpec,
    waiting_since: float,
) -> Reply:
    """Find the faces of a photo and crop them; replies with a ``WorkerResult``.

    ``waiting_since`` is when the photo started to wait for this worker, in seconds of ``time.perf_counter``.

    Raises:
        UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: The bytes are not a photo that can be read.
    """
    timer = StageTimer(waiting_since)
    with _opened(reserve, photo, max_pixels) as encoded:
        timer.end_stage("wait")
        found = face_pipeline().decode_and_find(
            encoded, min_box_side=DETAIL * max(crop.size), threshold=options.threshold, end_stage=timer.end_stage
        )
        faces = select(found.faces, options)
        crops = _crop(found.pixels, faces, crop, found.size, found.divisor)
        cutouts = [
            data_url(cut_out(found.pixels, face.box.scaled(1 / found.divisor))) if options.cutouts else None
            for face in faces
        ]
        timer.end_stage("align")
    return WorkerResult(found.size, faces, crops, timer.stages, cutouts).to_reply()


def recrop(reserve: Reserve, photo: bytes, *, max_pixels: int, faces: Sequence[Face], crop: CropSpec) -> Reply:
    """Crop known faces for a model that wants other crops; replies with ``FaceCrops``.

    Raises:
        UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: The bytes are not a photo that can be read.
    """
    with _opened(reserve, photo, max_pixels) as encoded:
        size, divisor = encoded.size, encoded.divisor
        pixels = encoded.decode()
        return _crop(pixels, faces, crop, pixels.shape[:2] if divisor == 1 else size, divisor).to_reply()


def draw_answer(
    reserve: Reserve, photo: bytes, *, max_pixels: int, answer: PhotoEmotions, media_type: str
) -> Reply:
    """Draw the answer in a photo; replies with the encoded picture as raw bytes.

    Raises:
        UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: The bytes are not a photo that can be read.
        NotAcceptable: A picture of this media type cannot have so many pixels a side.
    """
    with _opened(reserve, photo, max_pixels, to_draw=True) as encoded:
        height, width = encoded.size
        check_sides((-(-height // encoded.divisor), -(-width // encoded.divisor)), media_type)
        return None, annotate(encoded.decode(), answer, media_type)


@contextmanager
def _opened(reserve: Reserve, photo: bytes, max_pixels: int, *, to_draw: bool = False) -> Iterator[EncodedPhoto]:
    """Open a photo once memory for its pixels is reserved.

    Every task decodes the photo anew. Pixels that were kept while a photo waits for Triton or for a worker would
    take many times the upload's bytes, with no limit to how many photos wait.
    """
    with open_photo(photo, max_pixels=max_pixels) as encoded:
        reserve(encoded.drawing_bytes if to_draw else encoded.decoding_bytes)
        yield encoded


def select(faces: Sequence[Face], options: DetectionOptions) -> list[Face]:
    """Return the faces that the caller asked for, in the given order, which is largest first."""
    large = [face for face in faces if min(face.box.width, face.box.height) >= options.min_face_size]
    return large[: options.max_faces]


def _crop(
    pixels: NDArray[np.uint8], faces: Sequence[Face], crop: CropSpec, size: tuple[int, int], divisor: int = 1
) -> FaceCrops:
    aligned = crop_faces(
        pixels, faces, template=crop.template, size=crop.size, channels=crop.channels, divisor=divisor
    )
    # The limits of quality hold for gray crops of one size.
    gray = aligned
    if (crop.channels, crop.size) != (1, QUALITY_SIZE):
        gray = crop_faces(pixels, faces, template=crop.template, size=QUALITY_SIZE, divisor=divisor)
    boxed = None
    if crop.box_template is not None:
        boxed = crop_boxes(
            pixels,
            faces,
            template=crop.template,
            box_template=crop.box_template,
            size=crop.size,
            channels=crop.channels,
            divisor=divisor,
        )
    qualities = [measure_quality(face, each[0], size) for face, each in zip(faces, gray, strict=True)]
    return FaceCrops(aligned, boxed, qualities)
