"""Compress gray images with numpy and the standard library alone.

Each gray value is predicted from its neighbors, and the differences are compressed. The prediction is that of
Weinberger et al., "The LOCO-I Lossless Image Compression Algorithm", IEEE Trans. Image Processing 9 (2000).
"""

import zlib

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""[n, H, W]."""

CHUNK = 2048
"""Images to predict at once, which bounds the memory."""


def pack_images(images: Images, loss: int) -> bytes:
    """Compress images; no gray value changes by more than ``loss``, and with 0 none changes."""
    step = 2 * loss + 1
    compressor = zlib.compressobj(
        strategy=zlib.Z_HUFFMAN_ONLY
    )  # differences do not repeat, some are more frequent
    packed = []
    for start in range(0, len(images), CHUNK):
        levels = (images[start : start + CHUNK].astype(np.int16) + loss) // step  # [n, H, W]
        rows = np.pad(levels, ((0, 0), (1, 0), (1, 0)))
        left, above, corner = rows[:, 1:, :-1], rows[:, :-1, 1:], rows[:, :-1, :-1]
        differences = (levels - _predict(left, above, corner)).astype(np.uint8)  # modulo 256
        packed.append(compressor.compress(differences.tobytes()))
    return b"".join([*packed, compressor.flush()])


def unpack_images(data: bytes, shape: tuple[int, int, int], loss: int) -> Images:
    """Decompress what ``pack_images`` has made of images of this shape.

    Raises:
        ValueError: The data is damaged or of another shape.
    """
    try:
        differences = np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)
    except zlib.error as error:
        raise ValueError(f"the images are damaged: {error}") from error
    step = 2 * loss + 1
    count, height, width = shape
    images = np.empty(shape, np.uint8)
    for start in range(0, count, CHUNK):
        part = np.moveaxis(differences[start : start + CHUNK], 0, 2).astype(np.int16)  # [H, W, n]
        levels = np.zeros((height + 1, width + 1, part.shape[2]), np.int16)
        for y in range(height):
            for x in range(width):
                predicted = _predict(levels[y + 1, x], levels[y, x + 1], levels[y, x])
                levels[y + 1, x + 1] = (part[y, x] + predicted) & 255
        images[start : start + CHUNK] = np.moveaxis((levels[1:, 1:] * step).clip(0, 255), 2, 0)
    return images


def _predict(left: NDArray[np.int16], above: NDArray[np.int16], corner: NDArray[np.int16]) -> NDArray[np.int16]:
    """Predict values from their neighbors: left plus above minus corner, within the range of left and above."""
    predicted: NDArray[np.int16] = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    return predicted
