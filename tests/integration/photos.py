"""Photos for tests: real bytes of a real photo (NASA's picture of the astronaut Eileen Collins, one face)."""

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

UNDO_ORIENTATION = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the stored pixels differ from the upright picture, for each EXIF orientation."""


def astronaut() -> Image.Image:
    """512 x 512, with one face of about 90 x 113 pixels at (178, 63)."""
    return Image.fromarray(data.astronaut())


def tiles(columns: int, rows: int) -> Image.Image:
    """A photo with ``columns * rows`` faces."""
    return Image.fromarray(np.tile(data.astronaut()[:256, 100:356], (rows, columns, 1)))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose pixels are turned and whose EXIF says how; upright it is ``image``."""
    undo = UNDO_ORIENTATION[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image if undo is None else image.transpose(undo), quality=95, exif=exif)


def png_bomb(side: int) -> bytes:
    """A few kilobytes of PNG that promise ``side`` x ``side`` black pixels of one bit."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join([compressor.compress(row * 1000) for _ in range(side // 1000)]) + compressor.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = side.to_bytes(4) + side.to_bytes(4) + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
