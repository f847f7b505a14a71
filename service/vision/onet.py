"""Refine facial landmarks with ONet.

YuNet's landmarks rotate the crops by 5.8 degrees on average; the refined ones by 1.5. ONet is the third stage of
MTCNN: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", IEEE
SPL 23 (2016).
"""

import numpy as np
from numpy.typing import NDArray

from service.vision.alignment import invert_transform, similarity_transform, transform_points, warp
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
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict landmarks from crops that are aligned by coarse ones.

        Args:
            pixels: RGB, [H, W, 3].
            coarse: Landmarks in pixels, [n, 5, 2].

        Returns:
            Landmarks in pixels, [n, 5, 2], and the probability that each crop shows a face, [n]. Real profiles and
            blurred faces get low probabilities, so do not filter by them alone.
        """
        if not len(coarse):
            return coarse, np.empty(0, np.float32)
        transforms = [similarity_transform(points, TEMPLATE) for points in coarse]
        crops = np.stack([brighten(warp(pixels, matrix, (INPUT_SIZE, INPUT_SIZE))) for matrix in transforms])
        # [n, height, width, 3] -> [n, width, height, 3], as this conversion of ONet expects
        blob = ((crops.astype(np.float32) - 127.5) / 128).transpose(0, 2, 1, 3)
        output, probability = self._session.run(["dense_6", "softmax_2"], {"input_3": np.ascontiguousarray(blob)})
        points = np.stack([output[:, :5], output[:, 5:]], axis=2) * INPUT_SIZE  # [n, 5 x then 5 y] -> [n, 5, 2]
        refined = [
            transform_points(invert_transform(matrix), face)
            for matrix, face in zip(transforms, points, strict=True)
        ]
        return np.stack(refined).astype(np.float32), probability[:, 1]
