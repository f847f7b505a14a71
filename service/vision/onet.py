"""Refine facial landmarks with ONet.

YuNet's landmarks rotate the crops by 5.8 degrees on average; the refined ones by 1.5. ONet is the third stage of
MTCNN: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", IEEE
SPL 23 (2016). A third output was added to it, which is fitted by ``training occlusion``.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.vision.alignment import AffineMatrix, invert_transform, similarity_transform, transform_points, warp
from service.vision.light import brighten
from service.vision.onnx import open_session
from service.vision.weights import ONET, read_weights

INPUT_SIZE = 48
_ARCFACE_TEMPLATE = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
    / 112
)
TEMPLATE = ((_ARCFACE_TEMPLATE - 0.5) * 0.85 + 0.5) * INPUT_SIZE
"""Where the coarse landmarks lie in ONet's input, [5, 2] in pixels: the template of Deng et al., "ArcFace", CVPR
2019, shrunk to 0.85 around the center so that the input shows the whole face."""


class ONet:
    """Thread-safe, so one instance can be shared."""

    def __init__(self) -> None:
        self._session = open_session(read_weights(ONET))

    def refine(
        self, pixels: NDArray[np.uint8], coarse: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Predict landmarks from crops that are aligned by coarse ones.

        Args:
            pixels: RGB, [H, W, 3].
            coarse: Landmarks in pixels, [n, 5, 2].

        Returns:
            Landmarks in pixels, [n, 5, 2]; the probability that each crop shows a face, [n]: real profiles and
            blurred faces get low ones, so do not filter by them alone; and the probability that an eye or the
            mouth is hidden, [n].
        """
        if not len(coarse):
            return coarse, np.empty(0, np.float32), np.empty(0, np.float32)
        transforms = [similarity_transform(points, TEMPLATE) for points in coarse]
        crops = [crop_for_onet(pixels, matrix) for matrix in transforms]
        output, probability, hidden = self._session.run(
            ["dense_6", "softmax_2", "hidden"], {"input_3": to_input(crops)}
        )
        points = np.stack([output[:, :5], output[:, 5:]], axis=2) * INPUT_SIZE  # [n, 5 x then 5 y] -> [n, 5, 2]
        refined = [
            transform_points(invert_transform(matrix), face)
            for matrix, face in zip(transforms, points, strict=True)
        ]
        return np.stack(refined).astype(np.float32), probability[:, 1], hidden[:, 0]


def crop_for_onet(pixels: NDArray[np.uint8], matrix: AffineMatrix) -> NDArray[np.uint8]:
    """Cut a face out of an RGB image [H, W, 3] with the transform that puts its landmarks on ``TEMPLATE``."""
    return brighten(warp(pixels, matrix, (INPUT_SIZE, INPUT_SIZE)))


def to_input(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Make ONet's input of RGB crops [48, 48, 3]; this conversion of ONet expects [n, width, height, 3]."""
    values = (np.stack(crops).astype(np.float32) - 127.5) / 128
    return np.ascontiguousarray(values.transpose(0, 2, 1, 3))
