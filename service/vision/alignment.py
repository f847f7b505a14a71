"""Similarity transforms between landmarks, and the crops they cut."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.vision.face import Face

ALIASING = 0.7
"""A crop at a smaller scale than this is averaged down first; nearer to 1 that would only blur."""

Matrix = NDArray[np.float64]
"""[2, 3], takes (x, y, 1) of the photo to (x, y) of the crop, in pixels."""


def similarity_transform(source: ArrayLike, target: ArrayLike) -> Matrix:
    """The rotation, uniform scale and shift that take ``source`` [n, 2] to ``target`` [n, 2] best.

    Least squares, without reflection: Umeyama, "Least-squares estimation of transformation parameters between
    two point patterns", IEEE TPAMI 13 (1991).

    Raises:
        ValueError: all source points are the same.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    a_mean, b_mean = a.mean(axis=0), b.mean(axis=0)
    a, b = a - a_mean, b - b_mean
    variance = (a**2).sum()
    if variance == 0:
        raise ValueError(f"no similarity transform from {len(a)} equal points")
    # In the plane the best rotation and scale are one complex number: sum(conj(a) b) / sum(|a|^2).
    cosine = (a * b).sum() / variance
    sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / variance
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([rotation, b_mean - rotation @ a_mean])


def apply(matrix: Matrix, points: ArrayLike) -> NDArray[np.float64]:
    """Points [..., 2] taken through the transform."""
    moved: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved


def invert(matrix: Matrix) -> Matrix:
    """The transform back."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def warp(photo: NDArray[np.uint8], matrix: Matrix, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut ``size`` (height, width) out of a photo [H, W] or [H, W, C]; the photo's edge continues outwards.

    Where the crop is smaller than what it shows, the region is first averaged down: a warp alone would read one
    pixel in many and alias.
    """
    height, width = size
    corners = apply(invert(matrix), [(0, 0), (width, 0), (0, height), (width, height)])
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    margin = 2 + 2 / scale  # what the interpolation reads beyond the corners
    limits = (photo.shape[1], photo.shape[0])
    left, top = (int(np.clip(v, 0, n - 1)) for v, n in zip(corners.min(axis=0) - margin, limits, strict=True))
    right, bottom = (
        int(np.clip(v, low + 1, n))
        for v, low, n in zip(np.ceil(corners.max(axis=0) + margin), (left, top), limits, strict=True)
    )
    region = photo[top:bottom, left:right]
    shrink = np.eye(3)
    shrink[:2, 2] = -left, -top
    if scale < ALIASING:
        shape = [max(1, round(n * scale)) for n in (right - left, bottom - top)]
        factors = shape[0] / (right - left), shape[1] / (bottom - top)
        region = np.asarray(cv2.resize(region, shape, interpolation=cv2.INTER_AREA), np.uint8)
        # pixel centres: x' + .5 = (x - left + .5) * factor
        shrink = np.diag([*factors, 1.0]) @ shrink
        shrink[:2, 2] += [factors[0] / 2 - 0.5, factors[1] / 2 - 0.5]
    rest = matrix @ np.linalg.inv(shrink)
    crop = cv2.warpAffine(region, rest, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8)


def crop_faces(
    photo: NDArray[np.uint8],
    faces: Sequence[Face],
    *,
    template: ArrayLike,
    size: tuple[int, int],
    divisor: int = 1,
) -> NDArray[np.uint8]:
    """Grey crops, uint8 [faces, 1, height, width], in which the landmarks lie on the template.

    Args:
        photo: RGB, [H, W, 3].
        faces: what was found in it.
        template: where the five landmarks should lie, [5, 2], x and y as fractions of the crop.
        size: (height, width) of a crop in pixels.
        divisor: how many times larger the photo is that the faces' landmarks are pixels of.
    """
    height, width = size
    target = np.asarray(template, np.float64) * (width, height)
    crops = np.empty((len(faces), 1, height, width), np.uint8)
    for crop, face in zip(crops, faces, strict=True):
        landmarks = (face.landmarks + 0.5) / divisor - 0.5  # pixel centres
        crop[0] = cv2.cvtColor(warp(photo, similarity_transform(landmarks, target), size), cv2.COLOR_RGB2GRAY)
    return crops
