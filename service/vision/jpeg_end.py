"""JPEGs that were cut off: whether pixels are missing, or only the marker at the end."""

from contextlib import suppress

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from service.vision.bomb_checks import END_OF_IMAGE, START_OF_SCAN, segments

END = b"\xff\xd9"

FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
"""Markers of a frame's header: sequential and progressive (ITU T.81, table B.1)."""

COEFFICIENTS = 64
"""Of a block, for each component."""

MISSING = (127, 128)
"""What libjpeg decodes blocks to that are missing: in gray, and in CMYK, which is inverted."""


def lacks_end(jpeg: bytes) -> bool:
    """Whether a JPEG goes on to the end of the file."""
    return not any(marker == END_OF_IMAGE for marker, _ in segments(jpeg))


def missing_share(jpeg: bytes, size: tuple[int, int]) -> float:
    """Return what share of a JPEG without an end is missing, from 0 to 1: of its coefficients, or of its pixels.

    It is decoded to at least ``size`` (width, height).

    A file that ends between two scans decodes without a warning, though without details or colors. Within a scan,
    libjpeg warns, and the blocks that it misses become gray.
    """
    missing = 1 - _sent_coefficients(jpeg)
    if missing > 0:
        return missing
    is_cmyk = simplejpeg.decode_jpeg_header(jpeg, strict=False)[2] in ("CMYK", "YCCK")
    options = {"colorspace": "CMYK" if is_cmyk else "GRAY", "min_width": size[0], "min_height": size[1]}
    with suppress(ValueError):
        simplejpeg.decode_jpeg(jpeg + END, **options)
        return 0.0
    return _gray_end(np.asarray(simplejpeg.decode_jpeg(jpeg + END, strict=False, **options))[:, :, 0])


def _sent_coefficients(jpeg: bytes) -> float:
    """Return the share of coefficients that the scans carry; those without their last bits count half."""
    components: set[int] = set()
    sent: dict[tuple[int, int], float] = {}
    for marker, position in segments(jpeg):
        if marker in FRAMES:
            count = jpeg[position + 9]
            components = {jpeg[at] for at in range(position + 10, position + 10 + 3 * count, 3) if at < len(jpeg)}
        if marker == START_OF_SCAN:
            count = jpeg[position + 4]
            parameters = jpeg[position + 5 + 2 * count : position + 8 + 2 * count]
            if len(parameters) < 3:
                break
            first, last, precision = parameters
            for component in jpeg[position + 5 : position + 5 + 2 * count : 2]:
                for index in range(first, min(last + 1, COEFFICIENTS)):
                    sent[component, index] = 0.5 if precision & 15 else 1
    return min(1.0, sum(sent.values()) / (COEFFICIENTS * len(components))) if components else 0.0


def _gray_end(pixels: NDArray[np.uint8]) -> float:
    """Return the share of pixels [H, W] that are missing: rows at the end, and in the blocks before, columns."""
    height, width = pixels.shape
    present = ~np.isin(pixels, MISSING)
    filled = np.flatnonzero(present.any(axis=1))
    end = int(filled[-1]) + 1 if len(filled) else 0
    blocks = present[max(0, end - 8) : end]
    columns = np.flatnonzero(blocks.any(axis=0))
    missing = (height - end) * width + len(blocks) * (width - (int(columns[-1]) + 1 if len(columns) else 0))
    return float(max(missing, 1) / (height * width))
