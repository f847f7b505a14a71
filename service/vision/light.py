"""Brighten dark images and sharpen blurred ones for the networks that find faces."""

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_DARK_WHITE = 100
"""An image is dark if 99 % of its values, 0..255, are lower."""

MIN_WHITE = 4
"""If 99 % of an image's values are lower, it shows nothing."""

SHARPENING = 3.0
"""Of faces with a blur of 5 % of their side, three times as many are found sharpened by this much."""

SAMPLES = 64
"""Rows and columns, about, in which brightness is measured."""


def brighten(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale the values of a dark RGB image [H, W, 3] until its bright parts are white; return others unchanged."""
    height, width = pixels.shape[:2]
    sample = pixels[:: max(1, height // SAMPLES), :: max(1, width // SAMPLES)]
    rank = -max(1, sample.size // 100)
    white = float(np.partition(sample, rank, axis=None)[rank])
    if not MIN_WHITE <= white < MAX_DARK_WHITE:
        return pixels
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / white), np.uint8)


def sharpen(pixels: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Amplify what an RGB image [H, W, 3] shows within a radius in pixels (unsharp masking)."""
    smooth = cv2.GaussianBlur(pixels, (0, 0), radius)
    return np.asarray(cv2.addWeighted(pixels, 1 + SHARPENING, smooth, -SHARPENING, 0), np.uint8)
