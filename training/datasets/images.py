"""An image of a data set, wherever it lies: a file of its own, a row of a table, a record of a container."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np


class EncodedImage(Protocol):
    """What the face pipeline reads. A ``Path`` is one."""

    @property
    def name(self) -> str:
        """What the data set calls it."""

    def read_bytes(self) -> bytes:
        """The encoded image."""


@dataclass(frozen=True)
class PixelImage:
    """A square grey image that a table holds as pixels, row by row; empty where the table is broken there."""

    name: str
    pixels: bytes = field(repr=False)

    def read_bytes(self) -> bytes:
        """As PNG, so that it takes the way of every other image; nothing where there are no pixels."""
        if not self.pixels:
            return b""
        side = round(len(self.pixels) ** 0.5)
        return cv2.imencode(".png", np.frombuffer(self.pixels, np.uint8).reshape(side, side))[1].tobytes()


def identify(image: EncodedImage) -> str:
    """A line that changes when the image is another one; of a file its path and size."""
    if isinstance(image, Path):
        return f"{image} {image.stat().st_size}"
    if isinstance(image, PixelImage):
        return f"{image.name} {zlib.crc32(image.pixels)}"
    return repr(image)
