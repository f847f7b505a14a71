"""Find the faces of a photo: choose scales and rotations, detect with YuNet, refine the landmarks with ONet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.vision.decoding import EncodedPhoto, Pixels, reduction
from service.vision.face import Box, Face
from service.vision.onet import ONet
from service.vision.yunet import Detections, YuNet

LARGE_PHOTO_AREA = 1_000_000
"""Larger photos, in pixels, are searched at ``LARGE_SIDE``, because a face may be a small part of them."""

LARGE_SIDE = 1280
MEDIUM_SIDE = 640
SMALL_SIDE = 320
"""For a face that fills the frame, and for choosing a rotation."""

ENLARGEMENTS = (4, 5, 6, 3, 2)
"""Factors by which to enlarge a photo smaller than ``SMALL_SIDE``, in this order, until a face is found."""

CONFIDENT_SCORE = 0.9
"""If the best score is lower, other rotations are tried; rotated faces reach 0.6 to 0.89."""

MIN_ROTATED_SCORE = 0.85
"""Best score that another rotation must reach, as upright faces do and objects that resemble faces rarely do."""

MIN_SCORE_GAIN = 0.05
"""By how much the best score of another rotation must exceed that of the photo as it is."""

MIN_FACE_PROBABILITY = 0.02
"""ONet's probability from which a detection counts as a face."""

MAX_LANDMARK_SHIFT = 0.15
"""Distance between YuNet's and ONet's landmarks, relative to the box, up to which a detection counts as a face."""

NO_FACES = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))

EndStage = Callable[[str], None]
"""Called with the name of each stage ("decode", "detect", "landmarks") at its end."""


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """The faces of a photo, largest first, and the decoded pixels to crop them from.

    ``size`` is the (height, width) of the full-size photo, and faces are in its pixels; ``pixels`` is the photo at
    1/``divisor`` of that size.
    """

    faces: list[Face]
    size: tuple[int, int]
    pixels: Pixels
    divisor: int


class FacePipeline:
    """Finds faces and their landmarks. Thread-safe, so one instance can be shared."""

    def __init__(self) -> None:
        cv2.setNumThreads(
            1
        )  # as for the sessions; waking OpenCV's threads costs more than it saves on small images
        self._yunet = YuNet()
        self._onet = ONet()

    def find_faces(
        self, pixels: Pixels, *, threshold: float = 0.6, end_stage: EndStage | None = None
    ) -> list[Face]:
        """Find the faces of an RGB image [H, W, 3], largest first, with boxes clipped to the image.

        Args:
            pixels: The image.
            threshold: Minimum detection score, 0..1.
            end_stage: Called with "detect" and "landmarks" at the end of each stage.
        """
        return [face for face, _ in self._find(pixels, threshold, end_stage or _ignore_stage)]

    def decode_and_find(
        self,
        photo: EncodedPhoto,
        *,
        min_box_side: int,
        threshold: float = 0.6,
        end_stage: EndStage | None = None,
    ) -> PipelineResult:
        """Find the faces of a photo, and decode it no larger than they need.

        A large photo is searched at ``LARGE_SIDE``, so a JPEG is decoded at a fraction of its size, and others are
        reduced to it. If every face found has at least ``min_box_side`` pixels there, the full size of a JPEG is
        never decoded. Otherwise the landmarks are refined again on the full-size photo.

        Args:
            photo: An open photo.
            min_box_side: Pixels that the shorter side of a box must have in the image it is cropped from.
            threshold: Minimum detection score, 0..1.
            end_stage: Called with "decode", "detect" and "landmarks" at the end of each stage.

        Raises:
            UnreadablePhoto: The photo cannot be decoded.
        """
        end_stage = end_stage or _ignore_stage
        size, full = photo.size, None
        reduced = photo.decode_reduced(min_long_side=LARGE_SIDE, min_area=LARGE_PHOTO_AREA + 1)
        if reduced is None:
            full = photo.decode()
            divisor = reduction(full.shape[:2], min_long_side=LARGE_SIDE, min_area=LARGE_PHOTO_AREA + 1)
            if divisor == 1:
                end_stage("decode")
                faces = self.find_faces(full, threshold=threshold, end_stage=end_stage)
                return PipelineResult(faces, full.shape[:2], full, 1)
            # Each scale and rotation would read all of the pixels again, for seconds.
            reduced = _reduce(full, divisor), divisor
        pixels, divisor = reduced
        end_stage("decode")
        found = self._find(pixels, threshold, end_stage)
        faces = [_scale_face(face, divisor, size) for face, _ in found]
        if all(min(face.box.width, face.box.height) >= min_box_side for face, _ in found):
            return PipelineResult(faces, size, pixels, divisor)
        pixels = photo.decode() if full is None else full
        end_stage("decode")
        coarse = np.stack([_scale_points(landmarks, divisor) for _, landmarks in found])
        refined, _ = self._onet.refine(pixels, coarse)
        end_stage("landmarks")
        faces = [replace(face, landmarks=landmarks) for face, landmarks in zip(faces, refined, strict=True)]
        return PipelineResult(faces, size, pixels, 1)

    def _find(
        self, pixels: Pixels, threshold: float, end_stage: EndStage
    ) -> list[tuple[Face, NDArray[np.float32]]]:
        """Find faces, each with YuNet's own landmarks [5, 2], largest first."""
        turns, detections, coarse = self._search_rotations(pixels, threshold, end_stage)
        height, width = size = np.rot90(pixels, turns).shape[:2]
        found = []
        for (x, y, w, h), score, refined_points, coarse_points in zip(
            detections.boxes, detections.scores, detections.landmarks, coarse, strict=True
        ):
            corners = np.array([[x, y], [x + w, y + h]]).clip(0, [width, height])
            (left, top), (right, bottom) = _rotate_back(corners, turns, size)
            box = Box(
                float(min(left, right)),
                float(min(top, bottom)),
                float(abs(right - left)),
                float(abs(bottom - top)),
            )
            face = Face(box, float(score), _rotate_back(refined_points, turns, size))
            found.append((face, _rotate_back(coarse_points, turns, size)))
        return sorted(found, key=lambda each: each[0].box.area, reverse=True)

    def _search_rotations(
        self, pixels: Pixels, threshold: float, end_stage: EndStage
    ) -> tuple[int, Detections, NDArray[np.float32]]:
        """Find the rotation in which the photo shows faces best.

        Returns:
            The number of counterclockwise quarter turns, and the result of ``_search_scales`` after them.
        """
        sides = _search_sides(pixels)
        detections, coarse = self._search_scales(pixels, sides, threshold, end_stage)
        if detections.best_score >= CONFIDENT_SCORE:
            return 0, detections, coarse
        # A generator, so that only one rotated copy is in memory at a time.
        rotated = (np.ascontiguousarray(np.rot90(pixels, turns)) for turns in range(4))
        best = [self._yunet.detect(each, long_side=sides[-1], threshold=threshold).best_score for each in rotated]
        best[0] = max(best[0] + MIN_SCORE_GAIN, detections.best_score + MIN_SCORE_GAIN, MIN_ROTATED_SCORE)
        end_stage("detect")
        turns = int(np.argmax(best))
        if turns == 0:
            return 0, detections, coarse
        upright = np.ascontiguousarray(np.rot90(pixels, turns))
        return turns, *self._search_scales(upright, sides, threshold, end_stage)

    def _search_scales(
        self, pixels: Pixels, sides: Sequence[int], threshold: float, end_stage: EndStage
    ) -> tuple[Detections, NDArray[np.float32]]:
        """Find faces at the first of several scales that shows any.

        If all detections of a scale are rejected, the next scale is tried only for an enlarged photo: there the
        networks' outputs depend on how the interpolation filled in the missing detail.

        Returns:
            Detections with ONet's landmarks, and YuNet's landmarks [n, 5, 2].
        """
        is_enlarged = sides[0] > max(pixels.shape[:2])
        for side in sides:
            detections = self._yunet.detect(pixels, long_side=side, threshold=threshold)
            end_stage("detect")
            landmarks, probabilities = self._onet.refine(pixels, detections.landmarks)
            kept = _are_faces(detections, landmarks, probabilities)
            end_stage("landmarks")
            if kept.any() or (len(detections) and not is_enlarged):
                refined = Detections(detections.boxes[kept], detections.scores[kept], landmarks[kept])
                return refined, detections.landmarks[kept]
        return NO_FACES, NO_FACES.landmarks


def _scale_face(face: Face, divisor: int, size: tuple[int, int]) -> Face:
    """Convert a face from pixels of a reduced photo to those of the full one of ``size`` (height, width)."""
    height, width = size
    left, top = face.box.x * divisor, face.box.y * divisor
    # The reduced size is rounded up, so a box at its edge would exceed the photo.
    right = min(left + face.box.width * divisor, width)
    bottom = min(top + face.box.height * divisor, height)
    return Face(Box(left, top, right - left, bottom - top), face.score, _scale_points(face.landmarks, divisor))


def _scale_points(points: NDArray[np.float32], divisor: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (points + np.float32(0.5)) * divisor - np.float32(0.5)  # pixel centers
    return scaled


def _reduce(pixels: Pixels, divisor: int) -> Pixels:
    """Return the image at 1/``divisor`` of its size, rounded up as libjpeg does."""
    height, width = pixels.shape[:2]
    size = (-(-width // divisor), -(-height // divisor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _ignore_stage(_name: str) -> None:
    pass


def _are_faces(
    detections: Detections, landmarks: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Reject detections that fail all three tests, such as a dog's head; bool [n].

    Each test alone also rejects real faces. All three together rejected none of 3,000 photos of people (CelebA,
    LFW) and 0.2% of FER2013's 48-pixel images, which also show people.
    """
    shift = np.linalg.norm(landmarks - detections.landmarks, axis=2).mean(axis=1)
    shift /= np.sqrt(detections.boxes[:, 2] * detections.boxes[:, 3])
    are_faces: NDArray[np.bool_] = (
        (detections.scores >= CONFIDENT_SCORE)
        | (probabilities >= MIN_FACE_PROBABILITY)
        | (shift <= MAX_LANDMARK_SHIFT)
    )
    return are_faces


def _search_sides(pixels: Pixels) -> list[int]:
    """Choose the lengths of the longer side at which to search, in this order, until a face is found."""
    height, width = pixels.shape[:2]
    long_side = max(height, width)
    if height * width > LARGE_PHOTO_AREA:
        return [LARGE_SIDE, SMALL_SIDE]
    if long_side > SMALL_SIDE:
        return [min(long_side, MEDIUM_SIDE), SMALL_SIDE]
    return [min(SMALL_SIDE, long_side * factor) for factor in ENLARGEMENTS]


Points = TypeVar("Points", NDArray[np.float32], NDArray[np.float64])


def _rotate_back(points: Points, turns: int, size: tuple[int, int]) -> Points:
    """Undo counterclockwise quarter turns for points [n, 2] of a rotated image of ``size`` (height, width)."""
    height, width = size
    x, y = points[:, 0], points[:, 1]
    match turns:
        case 1:
            x, y = height - y, x
        case 2:
            x, y = width - x, height - y
        case 3:
            x, y = y, width - x
    return np.stack([x, y], axis=1).astype(points.dtype)
