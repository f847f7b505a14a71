"""Find the faces of a photo: decode it no larger than they need, search it, and refine the landmarks with ONet."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from service.vision.decoding import EncodedPhoto, Pixels, reduction
from service.vision.face import Box, Face
from service.vision.face_search import LARGE_PHOTO_AREA, LARGE_SIDE, FaceSearch
from service.vision.onet import ONet
from service.vision.second_look import EndStage
from service.vision.yunet import YuNet


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
        self._onet = ONet()
        self._search = FaceSearch(YuNet(), self._onet)

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
        never decoded. Otherwise the landmarks are refined again on the full-size photo, or on the half of one that
        exceeds the pixel limit.

        Args:
            photo: An open photo.
            min_box_side: Pixels that the shorter side of a box must have in the image it is cropped from.
            threshold: Minimum detection score, 0..1.
            end_stage: Called with "decode", "detect" and "landmarks" at the end of each stage.

        Raises:
            UnreadablePhoto: The photo cannot be decoded.
        """
        end_stage = end_stage or _ignore_stage
        full = None
        base = photo.divisor  # of the largest size that the photo can be decoded at
        reduced = photo.decode_reduced(min_long_side=LARGE_SIDE, min_area=LARGE_PHOTO_AREA + 1)
        if reduced is None:
            full = photo.decode()
            further = reduction(full.shape[:2], min_long_side=LARGE_SIDE, min_area=LARGE_PHOTO_AREA + 1)
            # Each scale and rotation would read all of the pixels again, for seconds.
            reduced = (full if further == 1 else _reduce(full, further)), base * further
        size = full.shape[:2] if full is not None and base == 1 else photo.size
        pixels, divisor = reduced
        end_stage("decode")
        found = self._find(pixels, threshold, end_stage)
        faces = [_scale_face(face, divisor, size) if divisor > 1 else face for face, _ in found]
        large = all(min(face.box.width, face.box.height) >= min_box_side for face, _ in found)
        if large or divisor == base:
            return PipelineResult(faces, size, pixels, divisor)
        pixels = photo.decode() if full is None else full
        end_stage("decode")
        coarse = np.stack([_scale_points(landmarks, divisor / base) for _, landmarks in found])
        refined, _, hidden = self._onet.refine(pixels, coarse)
        end_stage("landmarks")
        faces = [
            replace(
                face,
                landmarks=_scale_points(landmarks, base) if base > 1 else landmarks,
                hidden=float(probability),
            )
            for face, landmarks, probability in zip(faces, refined, hidden, strict=True)
        ]
        return PipelineResult(faces, size, pixels, base)

    def _find(
        self, pixels: Pixels, threshold: float, end_stage: EndStage
    ) -> list[tuple[Face, NDArray[np.float32]]]:
        """Find faces, each with YuNet's own landmarks [5, 2], largest first."""
        candidates = self._search.search(pixels, threshold, end_stage)
        height, width = pixels.shape[:2]
        starts = candidates.boxes[:, :2].clip(0, [width, height])
        ends = (candidates.boxes[:, :2] + candidates.boxes[:, 2:]).clip(0, [width, height])
        found = [
            (Face(Box(*map(float, (*start, *(end - start)))), float(score), landmarks, float(hidden)), coarse)
            for start, end, score, landmarks, hidden, coarse in zip(
                starts,
                ends,
                candidates.scores,
                candidates.landmarks,
                candidates.hidden,
                candidates.coarse,
                strict=True,
            )
        ]
        return sorted(found, key=lambda each: each[0].box.area, reverse=True)


def _scale_face(face: Face, divisor: int, size: tuple[int, int]) -> Face:
    """Convert a face from pixels of a reduced photo to those of the full one of ``size`` (height, width)."""
    height, width = size
    left, top = face.box.x * divisor, face.box.y * divisor
    # The reduced size is rounded up, so a box at its edge would exceed the photo.
    right = min(left + face.box.width * divisor, width)
    bottom = min(top + face.box.height * divisor, height)
    box = Box(left, top, right - left, bottom - top)
    return replace(face, box=box, landmarks=_scale_points(face.landmarks, divisor))


def _scale_points(points: NDArray[np.float32], divisor: float) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (points + np.float32(0.5)) * divisor - np.float32(0.5)  # pixel centers
    return scaled


def _reduce(pixels: Pixels, divisor: int) -> Pixels:
    """Return the image at 1/``divisor`` of its size, rounded up as libjpeg does."""
    height, width = pixels.shape[:2]
    size = (-(-width // divisor), -(-height // divisor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _ignore_stage(_name: str) -> None:
    pass
