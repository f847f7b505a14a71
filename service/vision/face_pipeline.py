"""From a photo to its faces: at which scales and turns to look, and the landmarks of what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.vision.decoding import EncodedPhoto, Pixels
from service.vision.face import Box, Face
from service.vision.onet import ONet
from service.vision.yunet import Detections, YuNet

LARGE_PHOTO = 1_000_000
"""Pixels from which a photo is searched at ``LARGE_SIDE``: its faces may be a small part of it."""

LARGE_SIDE = 1280
NORMAL_SIDE = 640
SMALL_SIDE = 320
"""For a face that fills the frame, and for finding which way is up."""

ENLARGEMENTS = (4, 5, 6, 3, 2)
"""How much a photo smaller than that is enlarged, in this order until a face is found."""

SURE = 0.9
"""A best score below this makes the photo be tried in the other three turns (lying faces reach 0.6 to 0.89)."""

CLEARLY_BETTER = 0.05
"""By how much the best score of another turn must exceed that of the photo as it is."""

TURNED = 0.85
"""The least best score of another turn: upright faces reach it, what merely looks like a lying one rarely does."""

NO_FACES = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """Faces in pixels of the whole photo, which is ``size`` (height, width), and what they are to be cut out of:
    the photo at 1/``divisor`` of that.
    """

    faces: list[Face]
    size: tuple[int, int]
    pixels: Pixels
    divisor: int


class FacePipeline:
    """Finds faces and their landmarks. Thread-safe: build one and share it."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # as of the sessions: waking its pool for a small picture costs more than it saves
        self._detector = YuNet()
        self._refiner = ONet()

    def find_faces(
        self, photo: NDArray[np.uint8], *, threshold: float = 0.6, end_stage: Callable[[str], None] | None = None
    ) -> list[Face]:
        """The faces of an RGB photo [H, W, 3], the largest first; boxes are clipped to the photo.

        Args:
            threshold: the least detection score, 0..1.
            end_stage: called with the name of each step, "detect" and "landmarks", when it is done.
        """
        return [face for face, _ in self._find(photo, threshold, end_stage or _unheard)]

    def _find(
        self, photo: NDArray[np.uint8], threshold: float, end_stage: Callable[[str], None]
    ) -> list[tuple[Face, NDArray[np.float32]]]:
        """As ``find`` does, and with each face the detector's own landmarks [5, 2]."""
        turns, found, coarse = self._search(photo, threshold, end_stage)
        height, width = np.rot90(photo, turns).shape[:2]
        faces = []
        for (x, y, w, h), score, exact, rough in zip(
            found.boxes, found.scores, found.landmarks, coarse, strict=True
        ):
            corners = np.array([[x, y], [x + w, y + h]]).clip(0, [width, height])
            (left, top), (right, bottom) = _turn_back(corners, turns, (height, width))
            box = Box(
                float(min(left, right)),
                float(min(top, bottom)),
                float(abs(right - left)),
                float(abs(bottom - top)),
            )
            landmarks, own = (_turn_back(points, turns, (height, width)) for points in (exact, rough))
            faces.append((Face(box, float(score), landmarks), own))
        return sorted(faces, key=lambda each: each[0].box.area, reverse=True)

    def decode_and_find(
        self,
        encoded: EncodedPhoto,
        *,
        min_box_side: int,
        threshold: float = 0.6,
        end_stage: Callable[[str], None] | None = None,
    ) -> PipelineResult:
        """The faces of a photo that is decoded no finer than they need.

        A large photo is searched at ``LARGE_SIDE`` anyway, and of a large face a crop shows a few pixels only:
        where every face has enough of them in a photo decoded at a part of its size, that is all that is decoded.
        Where one has not, the landmarks are read anew from the whole photo.

        Args:
            encoded: the photo; open.
            min_box_side: pixels that the shorter side of a face's box must have in what it is cut out of.
            threshold: the least detection score, 0..1.
            end_stage: called with the name of each step, "decode", "detect" and "landmarks", when it is done.

        Raises:
            UnreadablePhoto: it cannot be decoded.
        """
        end_stage = end_stage or _unheard
        reduced = encoded.decode_reduced(longer_side=LARGE_SIDE, area=LARGE_PHOTO + 1)
        if reduced is None:
            photo = encoded.decode()
            end_stage("decode")
            return PipelineResult(
                self.find_faces(photo, threshold=threshold, end_stage=end_stage), photo.shape[:2], photo, 1
            )
        small, divisor = reduced
        end_stage("decode")
        found = self._find(small, threshold, end_stage)
        faces = [_enlarge(face, divisor, encoded.size) for face, _ in found]
        if all(min(face.box.width, face.box.height) >= min_box_side for face, _ in found):
            return PipelineResult(faces, encoded.size, small, divisor)
        photo = encoded.decode()
        end_stage("decode")
        coarse = np.stack([_enlarge_points(own, divisor) for _, own in found])
        landmarks, _ = self._refiner.refine(photo, coarse)
        end_stage("landmarks")
        exact = [replace(face, landmarks=points) for face, points in zip(faces, landmarks, strict=True)]
        return PipelineResult(exact, encoded.size, photo, 1)

    def _search(
        self, photo: NDArray[np.uint8], threshold: float, end_stage: Callable[[str], None]
    ) -> tuple[int, Detections, NDArray[np.float32]]:
        """How many quarter turns to the left make the photo upright, and after them its faces, see ``_look``."""
        sides = _sides(photo)
        found, coarse = self._look(photo, sides, threshold, end_stage)
        if found.best >= SURE:
            return 0, found, coarse
        turned = (np.ascontiguousarray(np.rot90(photo, turns)) for turns in range(4))  # one at a time in memory
        best = [self._detector.detect(t, long_side=sides[-1], threshold=threshold).best for t in turned]
        best[0] = max(best[0] + CLEARLY_BETTER, found.best + CLEARLY_BETTER, TURNED)
        end_stage("detect")
        turns = int(np.argmax(best))
        if turns == 0:
            return 0, found, coarse
        return turns, *self._look(np.ascontiguousarray(np.rot90(photo, turns)), sides, threshold, end_stage)

    def _look(
        self, photo: NDArray[np.uint8], sides: Sequence[int], threshold: float, end_stage: Callable[[str], None]
    ) -> tuple[Detections, NDArray[np.float32]]:
        """The faces with refined landmarks, and the detector's own [n, 5, 2], at the first scale that shows any.

        What is disbelieved is not looked for again at another scale, unless the photo is enlarged: how the detail
        that it lacks is filled in changes what the networks make of it.
        """
        enlarged = sides[0] > max(photo.shape[:2])
        for side in sides:
            found = self._detector.detect(photo, long_side=side, threshold=threshold)
            end_stage("detect")
            landmarks, probabilities = self._refiner.refine(photo, found.landmarks)
            believed = _believed(found, landmarks, probabilities)
            end_stage("landmarks")
            if believed.any() or (len(found) and not enlarged):
                exact = Detections(found.boxes[believed], found.scores[believed], landmarks[believed])
                return exact, found.landmarks[believed]
        return NO_FACES, NO_FACES.landmarks


def _enlarge(face: Face, divisor: int, size: tuple[int, int]) -> Face:
    """A face of a photo at 1/``divisor`` of its size, in pixels of the whole: of ``size``, (height, width)."""
    height, width = size
    left, top = face.box.x * divisor, face.box.y * divisor
    # Its last block may be a part of one: the sizes are rounded up.
    right = min(left + face.box.width * divisor, width)
    bottom = min(top + face.box.height * divisor, height)
    return Face(Box(left, top, right - left, bottom - top), face.score, _enlarge_points(face.landmarks, divisor))


def _enlarge_points(points: NDArray[np.float32], divisor: int) -> NDArray[np.float32]:
    enlarged: NDArray[np.float32] = (points + np.float32(0.5)) * divisor - np.float32(0.5)  # pixel centres
    return enlarged


def _unheard(_step: str) -> None:
    """Nobody wants to know how long the steps take."""


def _believed(
    found: Detections, landmarks: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which detections [n] are faces: all but those that every sign speaks against, such as a dog's head.

    Each sign alone also rejects real faces. Together they rejected none of 3,000 photos of people (CelebA, LFW)
    and 0.2 % of FER2013's 48-pixel images, which are of people too.
    """
    shift = np.linalg.norm(landmarks - found.landmarks, axis=2).mean(axis=1)
    shift /= np.sqrt(found.boxes[:, 2] * found.boxes[:, 3])
    believed: NDArray[np.bool_] = (found.scores >= SURE) | (probabilities >= 0.02) | (shift <= 0.15)
    return believed


def _sides(photo: NDArray[np.uint8]) -> list[int]:
    """The lengths of the longer side at which to look, in this order until a face is found."""
    height, width = photo.shape[:2]
    longer = max(height, width)
    if height * width > LARGE_PHOTO:
        return [LARGE_SIDE, SMALL_SIDE]
    if longer > SMALL_SIDE:
        return [min(longer, NORMAL_SIDE), SMALL_SIDE]
    return [min(SMALL_SIDE, longer * enlargement) for enlargement in ENLARGEMENTS]


Points = TypeVar("Points", NDArray[np.float32], NDArray[np.float64])


def _turn_back(points: Points, turns: int, size: tuple[int, int]) -> Points:
    """Points [n, 2] of a photo after ``turns`` quarter turns to the left, which made it ``size``, before them."""
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
