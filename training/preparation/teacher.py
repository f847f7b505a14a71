"""The teacher: a face embedding network in ONNX form, run on every face when a data set is prepared."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.vision.alignment import similarity_transform, warp
from service.vision.face import Face
from service.vision.onnx import open_session

SIDE = 112
INPUT_SHAPE = (3, SIDE, SIDE)

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Eyes, nose and mouth corners in the 112 x 112 input, in pixels (Deng et al., "ArcFace", CVPR 2019)."""


class Teacher:
    """A face embedding network with input [1, 3, 112, 112]: RGB, (value - 127.5) / 128."""

    def __init__(self, path: Path) -> None:
        """Open the network.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is not an ONNX network, or its input has another shape.
        """
        data = path.read_bytes()
        try:
            self._session = open_session(data)
        except Exception as error:  # onnxruntime has an exception class for each kind of error
            raise ValueError(f"{path} is not an ONNX network: {error}") from error
        self._input = self._session.get_inputs()[0]
        shape = tuple(self._input.shape)
        if shape[1:] != INPUT_SHAPE or (isinstance(shape[0], int) and shape[0] != 1):
            raise ValueError(f"{path} has the input shape {list(shape)}; it must be {[1, *INPUT_SHAPE]}")
        self.name = path.name
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.size = len(self._embed(np.zeros((SIDE, SIDE, 3), np.uint8)))
        """Length of an embedding."""

    def embed(self, pixels: NDArray[np.uint8], face: Face) -> NDArray[np.float16]:
        """Compute the embedding [size], of unit length, of a face in an RGB photo [H, W, 3]."""
        return self._embed(warp(pixels, similarity_transform(face.landmarks, TEMPLATE), (SIDE, SIDE)))

    def _embed(self, crop: NDArray[np.uint8]) -> NDArray[np.float16]:
        blob = ((crop.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]
        output = np.asarray(self._session.run(None, {self._input.name: np.ascontiguousarray(blob)})[0])
        embedding = output.astype(np.float32).ravel()
        return (embedding / max(float(np.linalg.norm(embedding)), 1e-12)).astype(np.float16)
