"""Cut faces out of a photo, for callers that show them."""

import base64

import cv2
import numpy as np
import simplejpeg

from service.vision.decoding import Pixels
from service.vision.face import Box

MAX_SIDE = 160
"""Pixels; larger cutouts are reduced to this."""

MARGIN = 0.15
"""Space around a face's box on each side, as a share of the box's longer side."""

QUALITY = 85


def cut_out(pixels: Pixels, box: Box) -> Pixels:
    """Return a square around a box of an RGB image [H, W, 3], with a margin, where the image has it.

    Its longer side has at most ``MAX_SIDE`` pixels.
    """
    height, width = pixels.shape[:2]
    half = max(box.width, box.height) * (0.5 + MARGIN)
    x, y = box.x + box.width / 2, box.y + box.height / 2
    # At least one pixel, also of a box without an area at the edge.
    left, top = (min(max(0, round(center - half)), size - 1) for center, size in ((x, width), (y, height)))
    right, bottom = (max(start + 1, round(center + half)) for start, center in ((left, x), (top, y)))
    face = pixels[top:bottom, left:right]
    scale = MAX_SIDE / max(face.shape[:2])
    if scale < 1:
        size = (max(1, round(face.shape[1] * scale)), max(1, round(face.shape[0] * scale)))
        face = np.asarray(cv2.resize(face, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.ascontiguousarray(face)


def data_url(pixels: Pixels) -> str:
    """Return an RGB image [H, W, 3] as the data: URL of a JPEG."""
    jpeg = simplejpeg.encode_jpeg(pixels, quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
