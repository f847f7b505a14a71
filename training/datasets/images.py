"""An image of a data set, stored in a file, a row of a table or a record of a container."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np


class EncodedImage(Protocol):
    """An encoded image that can be read. A ``Path`` is one."""

    @property
    def name(self) -> str:
        """Name of the image in its data set."""

    def read_bytes(self) -> bytes:
        """Read the encoded image."""


@dataclass(frozen=True)
class PixelImage:
    """A square gray image stored as pixels, row by row; empty if its row of the table is invalid."""

    name: str
    pixels: bytes = field(repr=False)

    def read_bytes(self) -> bytes:
        """Encode the image as PNG, so that it is processed like any other; no bytes if there are no pixels."""
        if not self.pixels:
            return b""
        import cv2  # a machine that trains from a bundle has none

        side = round(len(self.pixels) ** 0.5)
        return cv2.imencode(".png", np.frombuffer(self.pixels, np.uint8).reshape(side, side))[1].tobytes()


def image_key(image: EncodedImage) -> str:
    """Describe an image in a line that changes with the image; of a file that is its path and size."""
    if isinstance(image, Path):
        return f"{image} {image.stat().st_size}"
    if isinstance(image, PixelImage):
        return f"{image.name} {zlib.crc32(image.pixels)}"
    return repr(image)
