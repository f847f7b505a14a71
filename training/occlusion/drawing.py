"""Draw one of the ``kinds`` over the face in a photo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from training.occlusion.kinds import FEATURES, MOUTH, Kind, Points, ellipse

Image = NDArray[np.uint8]
"""RGB, [H, W, 3]."""

SUBPIXEL_BITS = 4


@dataclass(frozen=True, eq=False)
class FaceFrame:
    """The coordinates of one face: its origin and axes, [2] in pixels, and where its mouth is, in units."""

    origin: Points
    x: Points
    y: Points
    mouth: Points

    @classmethod
    def of(cls, landmarks: ArrayLike) -> Self:
        """Take the frame from five landmarks [5, 2] in pixels."""
        left, right, _, mouth_left, mouth_right = np.asarray(landmarks, np.float64)
        origin, x = (left + right) / 2, right - left
        y = np.array([-x[1], x[0]])
        offset = (mouth_left + mouth_right) / 2 - origin
        length = max(float(x @ x), 1e-6)
        return cls(origin, x, y, np.array([offset @ x, offset @ y]) / length)

    @property
    def unit(self) -> float:
        """The distance between the eyes in pixels."""
        return float(np.hypot(*self.x))

    def place(self, points: ArrayLike) -> Points:
        """Return points [n, 2] of the face in pixels; the mouth of the turned or long face is where it is."""
        across, down = np.asarray(points, np.float64).T
        across = across + down / MOUTH * self.mouth[0]
        down = down / MOUTH * max(self.mouth[1], 0.4)
        return np.asarray(self.origin + np.outer(across, self.x) + np.outer(down, self.y), np.float64)


@dataclass(frozen=True, eq=False)
class Painter:
    """Draws kinds of things over faces; ``photos`` are what some of them show."""

    rng: Generator
    photos: Sequence[Image]

    def draw(self, image: Image, landmarks: ArrayLike, kind: Kind) -> tuple[Image, float]:
        """Draw over the face with these landmarks, [5, 2] in pixels.

        Returns:
            The image, and the share of the eye or of the mouth that is hidden most, 0..1.
        """
        rng, frame = self.rng, FaceFrame.of(landmarks)
        mask = _filled(image.shape[:2], [frame.place(shape) for shape in kind.shapes(rng)])
        if not mask.any():
            return image, 0.0
        texture = self._texture(image, frame, rng.choice(kind.textures))
        if kind.has_folds and rng.random() < 0.7:
            height = self._ramp(mask.shape, rng.uniform(-0.5, 0.5) + math.pi / 2) / frame.unit
            period = rng.uniform(0.18, 0.4)
            in_fold = height % period < period * rng.uniform(0.08, 0.25)
            texture = texture * np.where(in_fold, 1 - rng.uniform(0.1, 0.4), 1)[..., None]
        opacity = mask.astype(np.float32) / 255
        if rng.random() < 0.6:
            softness = max(0.3, frame.unit * rng.uniform(0, 0.03))
            opacity = np.asarray(cv2.GaussianBlur(opacity, (0, 0), softness), np.float32)
        opacity = opacity[..., None] * (1 if rng.random() < 0.85 else rng.uniform(0.85, 1))
        drawn = (image * (1 - opacity) + texture * opacity).clip(0, 255).astype(np.uint8)
        return drawn, max(_share_hidden(mask, frame, feature) for feature in FEATURES)

    def _texture(self, image: Image, frame: FaceFrame, name: str) -> NDArray[np.float32]:
        rng, shape = self.rng, image.shape[:2]
        if name == "coarse":
            step = max(2.0, frame.unit * rng.uniform(0.3, 0.5))
            small = cv2.resize(image, [max(1, round(n / step)) for n in shape[::-1]], interpolation=cv2.INTER_AREA)
            interpolation = cv2.INTER_NEAREST if rng.random() < 0.6 else cv2.INTER_LINEAR
            return cv2.resize(small, shape[::-1], interpolation=interpolation).astype(np.float32)
        if name == "photo":
            photo = cv2.resize(self.photos[int(rng.integers(len(self.photos)))], shape[::-1])
            return np.asarray(photo * rng.uniform(0.6, 1.2), np.float32)
        colors = {
            "white": np.full(3, rng.uniform(220, 250)),
            "black": np.full(3, rng.uniform(5, 45)),
            "mean": image.mean(axis=(0, 1)),
            "skin": self._skin(image, frame) * rng.uniform(0.8, 1.15),
        }
        texture = np.empty((*shape, 3), np.float32)
        texture[:] = colors.get(name, rng.integers(0, 256, 3))
        ramp = self._ramp(shape, rng.uniform(0, 2 * math.pi))
        side = max(shape)
        if name in ("shaded", "skin") or rng.random() < 0.3:
            texture *= (1 + rng.uniform(-0.9, 0.9) * (ramp - ramp.mean()) / side)[..., None]
        if name == "noise":
            texture += rng.normal(0, rng.uniform(10, 60), (*shape, rng.choice([1, 3])))
        if name == "stripes":
            period = side * rng.uniform(0.03, 0.2)
            texture[ramp % period < period * rng.uniform(0.2, 0.7)] = rng.integers(0, 256, 3)
        if name == "dots":
            period = side * rng.uniform(0.05, 0.2)
            rows, columns = ((np.arange(n) % period - period / 2) ** 2 for n in shape)
            texture[rows[:, None] + columns < (0.3 * period) ** 2] = rng.integers(0, 256, 3)
        if rng.random() < 0.5:
            texture += rng.normal(0, rng.uniform(1, 8), (*shape, 1))
        return texture

    def _skin(self, image: Image, frame: FaceFrame) -> NDArray[np.float64]:
        """Return the color of the darker cheek, RGB."""
        limits = np.array(image.shape[1::-1]) - 1
        cheeks = frame.place([(-0.45, 0.6), (0.45, 0.6)]).round().clip(0, limits).astype(int)
        return np.asarray(image[cheeks[:, 1], cheeks[:, 0]].min(axis=0), np.float64)

    @staticmethod
    def _ramp(shape: Sequence[int], angle: float) -> NDArray[np.float64]:
        """Return how far each pixel lies in the direction of ``angle``, [H, W]."""
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        return np.asarray(columns * math.cos(angle) + rows * math.sin(angle))


def _filled(shape: Sequence[int], outlines: Sequence[Points]) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    for outline in outlines:
        points = np.round(outline * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask


def _share_hidden(
    mask: NDArray[np.uint8], frame: FaceFrame, feature: tuple[tuple[float, float], float, float]
) -> float:
    center, half_width, half_height = feature
    shape = _filled(mask.shape, [frame.place(ellipse(center, half_width, half_height))]) > 0
    return float((mask[shape] > 127).mean()) if shape.any() else 0.0
