"""Align faces: similarity transforms between landmarks, and the crops they produce."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.vision.face import Face

ANTIALIAS_BELOW_SCALE = 0.7
"""Crops at a smaller scale are averaged down before the warp; closer to 1, averaging would only blur."""

AffineMatrix = NDArray[np.float64]
"""[2, 3]; maps (x, y, 1) in the source image to (x, y) in the crop, both in pixels."""


def similarity_transform(source: ArrayLike, target: ArrayLike) -> AffineMatrix:
    """Fit the rotation, uniform scale and translation that map ``source`` [n, 2] onto ``target`` [n, 2].

    Least squares, without reflection: Umeyama, "Least-squares estimation of transformation parameters between
    two point patterns", IEEE TPAMI 13 (1991).

    Raises:
        ValueError: All source points are equal.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    a_mean, b_mean = a.mean(axis=0), b.mean(axis=0)
    a, b = a - a_mean, b - b_mean
    variance = (a**2).sum()
    if variance == 0:
        raise ValueError(f"no similarity transform exists: all {len(a)} source points are equal")
    # In two dimensions the best rotation and scale are one complex number: sum(conj(a) b) / sum(|a|^2).
    cosine = (a * b).sum() / variance
    sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / variance
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([rotation, b_mean - rotation @ a_mean])


def tilt_transform(size: tuple[int, int], degrees: float, long_side: int) -> tuple[AffineMatrix, tuple[int, int]]:
    """Turn an image of ``size`` (height, width) counterclockwise about its center, and reduce it to ``long_side``.

    Returns:
        The transform, and the (height, width) of the result, which loses its corners.
    """
    scale = min(1.0, long_side / max(size))
    reduced = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    center = (size[1] - 1) / 2, (size[0] - 1) / 2
    matrix = np.asarray(cv2.getRotationMatrix2D(center, degrees, scale), np.float64)
    matrix[:, 2] += (reduced[1] - 1) / 2 - center[0], (reduced[0] - 1) / 2 - center[1]
    return matrix, reduced


def transform_points(matrix: AffineMatrix, points: ArrayLike) -> NDArray[np.float64]:
    """Apply a transform to points [..., 2]."""
    transformed: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return transformed


def invert_transform(matrix: AffineMatrix) -> AffineMatrix:
    """Return the transform from the crop back to the source image."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def warp(pixels: NDArray[np.uint8], matrix: AffineMatrix, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Warp an image [H, W] or [H, W, C] into a crop of ``size`` (height, width), replicating its border.

    ``cv2.warpAffine`` reads only the pixels around each sample and aliases when it shrinks, so a region that is
    larger than its crop is averaged down first.
    """
    height, width = size
    corners = transform_points(invert_transform(matrix), [(0, 0), (width, 0), (0, height), (width, height)])
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    margin = 2 + 2 / scale  # what the interpolation reads beyond the corners
    limits = (pixels.shape[1], pixels.shape[0])
    left, top = (int(np.clip(v, 0, n - 1)) for v, n in zip(corners.min(axis=0) - margin, limits, strict=True))
    right, bottom = (
        int(np.clip(v, low + 1, n))
        for v, low, n in zip(np.ceil(corners.max(axis=0) + margin), (left, top), limits, strict=True)
    )
    region = pixels[top:bottom, left:right]
    to_region = np.eye(3)
    to_region[:2, 2] = -left, -top
    if scale < ANTIALIAS_BELOW_SCALE:
        shape = [max(1, round(n * scale)) for n in (right - left, bottom - top)]
        factors = shape[0] / (right - left), shape[1] / (bottom - top)
        region = np.asarray(cv2.resize(region, shape, interpolation=cv2.INTER_AREA), np.uint8)
        # Resizing maps pixel centers: x' + 0.5 = (x - left + 0.5) * factor.
        to_region = np.diag([*factors, 1.0]) @ to_region
        to_region[:2, 2] += [factors[0] / 2 - 0.5, factors[1] / 2 - 0.5]
    from_region = matrix @ np.linalg.inv(to_region)
    crop = cv2.warpAffine(
        region, from_region, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(crop, np.uint8)


def crop_faces(
    pixels: NDArray[np.uint8],
    faces: Sequence[Face],
    *,
    template: ArrayLike,
    size: tuple[int, int],
    channels: int = 1,
    divisor: int = 1,
) -> NDArray[np.uint8]:
    """Cut out aligned crops, uint8 [faces, channels, height, width], with the landmarks on the template.

    Args:
        pixels: RGB, [H, W, 3].
        faces: Faces in the photo, in pixels of the full-size photo.
        template: Target positions of the five landmarks, [5, 2], x and y as fractions of the crop.
        size: (height, width) of a crop in pixels.
        channels: 1 for gray crops, 3 for RGB.
        divisor: By what factor ``pixels`` is smaller than the full-size photo.
    """
    target = np.asarray(template, np.float64) * size[::-1]
    return _cut(pixels, [_align(face, target, divisor) for face in faces], size, channels)


def crop_boxes(
    pixels: NDArray[np.uint8],
    faces: Sequence[Face],
    *,
    template: ArrayLike,
    box_template: ArrayLike,
    size: tuple[int, int],
    channels: int = 1,
    divisor: int = 1,
) -> NDArray[np.uint8]:
    """Cut out crops, uint8 [faces, channels, height, width], as upright as aligned ones, but framed by the boxes.

    Args:
        pixels: RGB, [H, W, 3].
        faces: Faces in the photo, in pixels of the full-size photo.
        template: As for ``crop_faces``; it tells how far a face is rotated.
        box_template: Where the box of an upright face should lie: left, top, right and bottom as fractions of the
            crop.
        size: (height, width) of a crop in pixels.
        channels: 1 for gray crops, 3 for RGB.
        divisor: By what factor ``pixels`` is smaller than the full-size photo.
    """
    target = np.asarray(template, np.float64) * size[::-1]
    left, top, right, bottom = np.asarray(box_template, np.float64) * (*size[::-1], *size[::-1])
    center = np.array([left + right, top + bottom]) / 2
    matrices = []
    for face in faces:
        rotation = _align(face, target, divisor)[:, :2]
        rotation = rotation / np.hypot(*rotation[0])
        box = face.box
        # The box is upright even where the face is not. What is the height of an upright face is the width of one
        # that lies on its side.
        length = (rotation[0, 0] ** 2 * box.height + rotation[0, 1] ** 2 * box.width) / divisor
        middle = (np.array([box.x + box.width / 2, box.y + box.height / 2]) + 0.5) / divisor - 0.5
        linear = rotation * (bottom - top) / max(length, 1.0)
        matrices.append(np.column_stack([linear, center - linear @ middle]))
    return _cut(pixels, matrices, size, channels)


def _align(face: Face, target: NDArray[np.float64], divisor: int) -> AffineMatrix:
    return similarity_transform((face.landmarks + 0.5) / divisor - 0.5, target)  # pixel centers


def _cut(
    pixels: NDArray[np.uint8], matrices: Sequence[AffineMatrix], size: tuple[int, int], channels: int
) -> NDArray[np.uint8]:
    crops = np.empty((len(matrices), channels, *size), np.uint8)
    for crop, matrix in zip(crops, matrices, strict=True):
        cut = warp(pixels, matrix, size)  # [height, width, 3]
        crop[:] = cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY) if channels == 1 else cut.transpose(2, 0, 1)
    return crops
