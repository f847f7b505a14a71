"""Detect faces and coarse landmarks with YuNet.

Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20 (2023).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from service.vision.light import brighten
from service.vision.onnx import open_session
from service.vision.weights import YUNET, read_weights

STRIDES = (8, 16, 32)
NMS_THRESHOLD = 0.3
"""Of two boxes with a larger IoU, the one with the lower score is dropped."""


@dataclass(frozen=True, eq=False)
class Detections:
    """YuNet's output for n faces, best first.

    ``boxes`` is [n, 4] as x, y, width, height in pixels; ``scores`` [n], 0..1; ``landmarks`` [n, 5, 2] in pixels.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def best_score(self) -> float:
        """The highest score, or 0 without detections."""
        return float(self.scores[0]) if len(self) else 0.0

    @classmethod
    def none(cls) -> Self:
        """Return no detections."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """Return some of the detections."""
        return type(self)(self.boxes[index], self.scores[index], self.landmarks[index])

    @classmethod
    def join(cls, parts: Sequence["Detections"]) -> Self:
        """Return the detections of all parts, in their order."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
        )


class YuNet:
    """Thread-safe, so one instance can be shared."""

    def __init__(self) -> None:
        self._session = open_session(read_weights(YUNET))

    def detect(self, pixels: NDArray[np.uint8], *, long_side: int, threshold: float) -> Detections:
        """Detect faces in an RGB image [H, W, 3] that is resized to a longer side of ``long_side`` first.

        A dark image is brightened. ``threshold`` is the minimum score, 0..1.
        """
        height, width = pixels.shape[:2]
        scale = long_side / max(height, width)
        shape = max(1, round(width * scale)), max(1, round(height * scale))
        (detections,) = self.detect_all([brighten(_resize(pixels, shape))], threshold=threshold)
        factors = np.array([width / shape[0], height / shape[1]], np.float32)
        return Detections(
            detections.boxes * np.tile(factors, 2), detections.scores, detections.landmarks * factors
        )

    def detect_all(self, images: Sequence[NDArray[np.uint8]], *, threshold: float) -> list[Detections]:
        """Detect faces in several RGB images [H, W, 3] of one size, as they are."""
        height, width = images[0].shape[:2]
        rows, columns = math.ceil(height / 32) * 32, math.ceil(width / 32) * 32
        # BGR, 0..255, in half the time of blobFromImage
        blob = np.empty((len(images), 3, rows, columns), np.float32)
        blob[:, :, height:] = 0
        blob[:, :, :height, width:] = 0
        for image, target in zip(images, blob, strict=True):
            for channel, plane in enumerate(reversed(cv2.split(image))):
                target[channel, :height, :width] = plane
        outputs = self._session.run([f"heads_{stride}" for stride in STRIDES], {"input": blob})
        return [_read([output[index] for output in outputs], threshold) for index in range(len(images))]


def _read(outputs: Sequence[NDArray[np.float32]], threshold: float) -> Detections:
    """Read the network's outputs for one image, [16, rows, columns] for each stride."""
    boxes, scores, landmarks = [], [], []
    for stride, output in zip(STRIDES, outputs, strict=True):
        columns = output.shape[2]
        heads = output.reshape(16, -1)  # [16, rows, columns] -> [16, anchors]
        class_and_object = 1 / (1 + np.exp(-heads[:2].clip(-80, 80)))  # two sigmoids that cannot overflow
        score = np.sqrt(class_and_object[0] * class_and_object[1])
        anchors = np.nonzero(score >= threshold)[0]
        cells = np.stack([anchors % columns, anchors // columns], axis=1)
        box = heads[2:6, anchors].T  # center relative to the cell, logarithm of the size
        size = np.exp(box[:, 2:]) * stride
        boxes.append(np.concatenate([(cells + box[:, :2]) * stride - size / 2, size], axis=1))
        points = heads[6:, anchors].T.reshape(-1, 5, 2)
        landmarks.append((points + cells[:, None]) * stride)
        scores.append(score[anchors])
    all_boxes = np.concatenate(boxes).astype(np.float32)
    all_scores = np.concatenate(scores)
    kept = np.asarray(cv2.dnn.NMSBoxes(all_boxes.tolist(), all_scores.tolist(), threshold, NMS_THRESHOLD), int)
    return Detections(all_boxes[kept], all_scores[kept], np.concatenate(landmarks)[kept].astype(np.float32))


def _resize(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image [H, W, 3] to ``shape`` (width, height).

    OpenCV averages areas fast only by whole factors: any other takes six times as long as linear interpolation,
    nearly half as long as the network. So an image is averaged down by a whole factor while it stays larger than
    ``shape``, and linear interpolation, which reads two pixels in each direction, does the rest.
    """
    height, width = pixels.shape[:2]
    factor = min(width // shape[0], height // shape[1])
    if factor > 1:
        pixels = pixels[: height // factor * factor, : width // factor * factor]
        pixels = np.asarray(
            cv2.resize(pixels, (width // factor, height // factor), interpolation=cv2.INTER_AREA), np.uint8
        )
    if pixels.shape[1::-1] != shape:
        pixels = np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_LINEAR), np.uint8)
    return pixels
