"""Reject decompression bombs by a file's structure, before a decoder reads it.

A small file can keep a decoder busy for minutes: Pillow reads every chunk and segment in Python and joins all EXIF
segments again for each one, libjpeg processes the whole image for each scan, which can be a hundred bytes, and
libheif decodes an image as often as others refer to it. With these limits, a photo takes less than 4 s of a core.
"""

import re
import struct
from collections.abc import Iterator
from itertools import islice

from service.vision.heif_boxes import read_images

MAX_CHUNKS = 25_000
"""PNG chunks. Encoders write more than 1 KiB in each, so even the largest upload has fewer."""

MAX_METADATA_CHUNKS = 200
"""PNG chunks other than those of image data. Pillow unpacks up to a megabyte from each hundred bytes of text."""

IMAGE_DATA_CHUNKS = (b"IDAT", b"fdAT", b"fcTL")

SINGLE_CHUNKS = (b"IHDR", b"PLTE", b"iCCP", b"eXIf", b"tRNS")
"""PNG chunks that may occur once (PNG, section 5.6). Pillow unpacks every color profile, whatever its size."""

MAX_SEGMENTS = 2_000
"""JPEG segments. Large color profiles and MPF previews take a few hundred."""

MAX_SCANS = 30
MAX_SCANNED_PIXELS = 1_000_000_000
"""Scans of a JPEG times its pixels and the times it is decoded. Encoders write about ten scans, and 18 in CMYK."""

MAX_SIDE = 65_535
"""Width and height of a photo, which are JPEG's own limits. Decoders spend as much on a row as on many pixels."""

MAX_HEIF_PIXELS = 75_000_000
HEIF_PIXELS_PER_PIXEL, MORE_HEIF_PIXELS = 2, 1_000_000
"""Pixels of all images that make up a HEIC photo: at most, per pixel of the photo, and in addition. Tiles of a
grid may reach over its edges, and an alpha channel is an image of the same size."""

MAX_BLOCKS = 25_000
"""Blocks of a GIF before its first image, of up to 255 bytes: comments, metadata and color profiles."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
HEIF_SIGNATURE = b"ftyp"
"""The kind of the first box, after its size."""
GIF_SIGNATURE = b"GIF8"

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
STANDALONE_MARKERS = (0x01, *range(0xD0, 0xD9))
"""JPEG markers without a length: TEM, RST0 to RST7, SOI (ITU T.81, B.1.1.3)."""

MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Ends a scan's coded data, in which 0xFF is followed by 0x00 or is a restart marker (ITU T.81, B.1.1.5)."""


class DecompressionBomb(ValueError):
    """A decoder would take too long for this file."""


def check_structure(photo: bytes) -> None:
    """Check the chunks of a PNG, the segments of a JPEG before its first scan, or a GIF's blocks before its image.

    Raises:
        DecompressionBomb: There are more than ``MAX_CHUNKS``, ``MAX_SEGMENTS`` or ``MAX_BLOCKS``, or a chunk is
            repeated that may occur only once.
    """
    if photo.startswith(PNG_SIGNATURE):
        _check_chunks(photo)
    elif photo.startswith(JPEG_SIGNATURE):
        count_scans(photo, limit=0)
    elif photo.startswith(GIF_SIGNATURE):
        _check_blocks(photo)


def check_size(photo: bytes, width: int, height: int) -> None:
    """Check the sides of a photo, and the images that a HEIC is made of.

    Raises:
        DecompressionBomb: A side is longer than ``MAX_SIDE``, or a HEIC is made of more pixels than it needs.
        HeifBroken: The boxes of a HEIC cannot be read.
    """
    if max(width, height) > MAX_SIDE:
        raise DecompressionBomb(
            f"the photo is {width:,} x {height:,}; the limit for a side is {MAX_SIDE:,} pixels"
        )
    if photo[4:8] == HEIF_SIGNATURE:
        _check_images(photo, width * height)


def _check_images(heif: bytes, pixel_count: int) -> None:
    images = read_images(heif)
    for kinds in images.transformations.values():
        for kind, count in kinds.items():
            if count > 1:
                raise DecompressionBomb(f"an image in the HEIC has {count} properties {kind.decode()}")
    limit = min(MAX_HEIF_PIXELS, HEIF_PIXELS_PER_PIXEL * pixel_count + MORE_HEIF_PIXELS)
    if images.decoded_pixels() > limit:
        raise DecompressionBomb(
            f"the HEIC of {pixel_count / 1e6:,.1f} Mpx is made of images of more than {limit / 1e6:,.1f} Mpx"
        )


def _check_chunks(png: bytes) -> None:
    position, count, metadata = len(PNG_SIGNATURE), 0, 0
    seen = set()
    while position + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        count += 1
        if count > MAX_CHUNKS:
            raise DecompressionBomb(f"the PNG has more than {MAX_CHUNKS:,} chunks")
        if kind == b"IEND":
            return
        if kind not in IMAGE_DATA_CHUNKS:
            metadata += 1
            if metadata > MAX_METADATA_CHUNKS:
                raise DecompressionBomb(f"the PNG has more than {MAX_METADATA_CHUNKS} chunks of metadata")
            if kind in SINGLE_CHUNKS and kind in seen:
                raise DecompressionBomb(f"the PNG has more than one chunk {kind.decode()}")
            seen.add(kind)
        position += 12 + length


def _check_blocks(gif: bytes) -> None:
    """Count the blocks before the first image: Pillow reads each in Python (GIF89a, appendix A)."""
    position, blocks = 13 + (3 << (gif[10] & 7) + 1 if len(gif) > 10 and gif[10] & 128 else 0), 0
    while gif[position : position + 1] == b"!":
        position += 2
        while position < len(gif) and gif[position]:
            blocks += 1
            if blocks > MAX_BLOCKS:
                raise DecompressionBomb(f"the GIF has more than {MAX_BLOCKS:,} blocks before its first image")
            position += 1 + gif[position]
        position += 1


def segments(jpeg: bytes) -> Iterator[tuple[int, int]]:
    """Yield each segment's marker and position in a JPEG; the last is ``END_OF_IMAGE`` unless it is missing.

    Raises:
        DecompressionBomb: There are more than ``MAX_SEGMENTS``.
    """
    position, count = 2, 0
    while True:
        position = jpeg.find(b"\xff", position)
        while 0 <= position < len(jpeg) - 1 and jpeg[position + 1] == 0xFF:  # fill bytes
            position += 1
        if not 0 <= position < len(jpeg) - 1:
            return
        marker = jpeg[position + 1]
        if marker == END_OF_IMAGE:
            yield marker, position
            return
        if position >= len(jpeg) - 3:
            return
        count += 1
        if count > MAX_SEGMENTS:
            raise DecompressionBomb(f"the JPEG has more than {MAX_SEGMENTS:,} segments")
        yield marker, position
        if marker == 0 or marker in STANDALONE_MARKERS:
            position += 2
            continue
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4])
        if marker == START_OF_SCAN:
            found = MARKER_AFTER_SCAN.search(jpeg, position)
            position = found.start() if found else len(jpeg)


def count_scans(jpeg: bytes, limit: int) -> int:
    """Count the scans of a JPEG; stop at ``limit + 1``.

    Raises:
        DecompressionBomb: There are more than ``MAX_SEGMENTS``.
    """
    scans = (marker for marker, _ in segments(jpeg) if marker == START_OF_SCAN)
    return sum(1 for _ in islice(scans, limit + 1))


def check_scans(jpeg: bytes, pixel_count: int, *, times: int) -> None:
    """Check the scans of a JPEG of ``pixel_count`` pixels that may be decoded so many times.

    Raises:
        DecompressionBomb: There are more than ``MAX_SCANS``, or than ``MAX_SCANNED_PIXELS`` allows.
    """
    max_scans = min(MAX_SCANS, MAX_SCANNED_PIXELS // (pixel_count * times))
    if count_scans(jpeg, max_scans) > max_scans:
        raise DecompressionBomb(f"the JPEG has more than {max_scans} scans of {pixel_count / 1e6:,.1f} Mpx each")
