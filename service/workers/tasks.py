"""The steps between a photo's bytes and the crops that Triton gets; they run in a photo process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.observability.timing import StageTimer, StageTiming
from service.schemas import PhotoEmotions
from service.vision.alignment import crop_faces
from service.vision.decoding import EncodedPhoto, open_photo
from service.vision.drawing import annotate
from service.vision.face import Box, Face
from service.vision.face_pipeline import FacePipeline
from service.vision.quality import FaceQuality, measure_quality

DETAIL = 2
"""A face whose box has at least so many times the crop's pixels in a reduced photo is cut out of that."""

Room = Callable[[int], None]
"""Waits until there is room for so many bytes of pixels; it is given back when the step is done."""

Reply = tuple[Any, bytes]
"""What a step gives back to the gateway: what JSON can carry, and raw bytes."""


@dataclass(frozen=True)
class DetectionOptions:
    """What a caller asks for: at most ``max_faces``, largest first; boxes whose shorter side has at least
    ``min_face_size`` pixels; detection scores of at least ``threshold``.
    """

    max_faces: int
    min_face_size: float
    threshold: float


@dataclass(frozen=True, eq=False)
class CropSpec:
    """How the served model wants a face: ``size`` (height, width) in pixels; ``template`` float64 [5, 2], where
    its landmarks should lie, x and y as fractions of that.
    """

    size: tuple[int, int]
    template: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """Grey crops of faces, uint8 [N, 1, height, width], and what each is worth."""

    crops: NDArray[np.uint8]
    qualities: list[FaceQuality]

    def reply(self) -> Reply:
        """For the gateway."""
        return [astuple(each) for each in self.qualities], self.crops.tobytes()

    @classmethod
    def read(cls, fields: Any, raw: bytes, *, crop: CropSpec) -> "FaceCrops":
        """What ``reply`` gave."""
        qualities = [
            FaceQuality(float(roll), float(yaw), float(size), float(sharpness), float(brightness), tuple(doubts))
            for roll, yaw, size, sharpness, brightness, doubts in fields
        ]
        return cls(np.frombuffer(raw, np.uint8).reshape(len(qualities), 1, *crop.size), qualities)


@dataclass(frozen=True, eq=False)
class WorkerResult:
    """The faces that a caller asked for in a photo of ``size`` (height, width), and the steps of finding them."""

    size: tuple[int, int]
    faces: list[Face]
    portraits: FaceCrops
    stages: list[StageTiming]

    def reply(self) -> Reply:
        """For the gateway."""
        faces = [[astuple(each.box), each.score, each.landmarks.tolist()] for each in self.faces]
        qualities, raw = self.portraits.reply()
        return [self.size, faces, qualities, self.stages], raw

    @classmethod
    def read(cls, fields: Any, raw: bytes, *, crop: CropSpec) -> "WorkerResult":
        """What ``reply`` gave."""
        (height, width), faces, qualities, stages = fields
        portraits = FaceCrops.read(qualities, raw, crop=crop)
        if len(faces) != len(portraits.qualities):
            raise ValueError(f"{len(faces)} faces, {len(portraits.qualities)} qualities")
        return cls(
            (int(height), int(width)),
            [
                Face(Box(*map(float, box)), float(score), np.array(points, np.float32).reshape(5, 2))
                for box, score, points in faces
            ],
            portraits,
            [(str(name), float(start), float(end)) for name, start, end in stages],
        )


@cache
def finder() -> FacePipeline:
    """This process's."""
    return FacePipeline()


def find(
    room: Room, data: bytes, *, max_pixels: int, options: DetectionOptions, crop: CropSpec, handed_over_at: float
) -> Reply:
    """The faces of a photo, and their crops, as ``WorkerResult``.

    ``handed_over_at``, in seconds of ``time.perf_counter``, is when it began to wait for this process.

    Raises:
        UnsupportedPhoto, PhotoTooLarge, UnreadablePhoto: the bytes are no photo that can be read.
    """
    timer = StageTimer(handed_over_at)
    with opened(room, data, max_pixels) as photo:
        timer.end_stage("wait")
        sighting = finder().decode_and_find(
            photo, min_box_side=DETAIL * max(crop.size), threshold=options.threshold, end_stage=timer.end_stage
        )
        faces = select(sighting.faces, options)
        portraits = _portraits(sighting.pixels, faces, crop, sighting.size, sighting.divisor)
        timer.end_stage("align")
    return WorkerResult(sighting.size, faces, portraits, timer.stages).reply()


def recrop(room: Room, data: bytes, *, max_pixels: int, faces: Sequence[Face], crop: CropSpec) -> Reply:
    """``FaceCrops`` of faces that were found already, for a model that wants others. Raises as ``find`` does."""
    with opened(room, data, max_pixels) as photo:
        pixels = photo.decode()
        return _portraits(pixels, faces, crop, pixels.shape[:2]).reply()


@contextmanager
def opened(room: Room, data: bytes, max_pixels: int, *, to_draw: bool = False) -> Iterator[EncodedPhoto]:
    """The photo, once there is room for its pixels.

    They are decoded anew for each step: while a photo waits for Triton or for a process, they would lie there,
    many times the upload's bytes, and without a limit to how many photos wait.
    """
    with open_photo(data, max_pixels=max_pixels) as photo:
        room(photo.drawing_bytes if to_draw else photo.decoding_bytes)
        yield photo


def select(faces: Sequence[Face], options: DetectionOptions) -> list[Face]:
    """The faces that the caller asked for; they come largest first and stay so."""
    large = [face for face in faces if min(face.box.width, face.box.height) >= options.min_face_size]
    return large[: options.max_faces]


def _portraits(
    photo: NDArray[np.uint8], faces: Sequence[Face], crop: CropSpec, size: tuple[int, int], divisor: int = 1
) -> FaceCrops:
    crops = crop_faces(photo, faces, template=crop.template, size=crop.size, divisor=divisor)
    return FaceCrops(
        crops, [measure_quality(face, each[0], size) for face, each in zip(faces, crops, strict=True)]
    )


def annotate_encoded(room: Room, data: bytes, *, max_pixels: int, answer: PhotoEmotions, media_type: str) -> Reply:
    """A photo with its answer drawn in it, as raw bytes; runs in a photo process."""
    with opened(room, data, max_pixels, to_draw=True) as photo:
        return None, annotate(photo.decode(), answer, media_type)
