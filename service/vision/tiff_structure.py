"""Limit what decoding a TIFF costs, by the first directory's fields (TIFF 6.0, section 2)."""

import struct
from collections.abc import Mapping

from service.errors import UnsupportedPhoto
from service.vision.bomb_checks import MAX_SCANNED_PIXELS, MAX_SCANS, DecompressionBomb

MAX_FIELDS = 1_000

MAX_STRIPS = 100_000
"""Strips or tiles. Encoders write at least one row in each, and photos have fewer rows."""

MIN_TILE_PIXELS = 1024 * 1024
"""A tile may always have so many pixels, and otherwise not more than four times those of the photo."""

SLACK_BYTES = 1024 * 1024

SUBFILE_TYPE, WIDTH, HEIGHT, COMPRESSION, STRIP_OFFSETS, STRIP_BYTES = 254, 256, 257, 259, 273, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, DNG_VERSION = 322, 323, 324, 325, 50706

REDUCED = 1
OLD_JPEG, JPEG = 6, 7
START_OF_SCAN = b"\xff\xda"

TYPES = {1: "B", 3: "H", 4: "L", 16: "Q"}
"""Types of numbers without a sign, as ``struct`` writes them."""

SIGNATURES = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
"""Byte order, and whether it is a BigTIFF."""


def check_fields(tiff: bytes) -> None:
    """Check the first directory of a TIFF.

    Raises:
        UnsupportedPhoto: It is a camera's raw file, whose first image is only a thumbnail.
        DecompressionBomb: There are too many fields, strips or tiles, or they are too large.
    """
    fields = _fields(tiff)
    if fields.get(SUBFILE_TYPE, (0,))[0] & REDUCED or DNG_VERSION in fields:
        raise UnsupportedPhoto("the TIFF is a camera's raw file, such as DNG or NEF; export it as JPEG")
    strips = max(len(fields.get(STRIP_OFFSETS, ())), len(fields.get(TILE_OFFSETS, ())))
    if strips > MAX_STRIPS:
        raise DecompressionBomb(f"the TIFF has {strips:,} strips; the limit is {MAX_STRIPS:,}")
    coded = sum(fields.get(STRIP_BYTES, ())) + sum(fields.get(TILE_BYTES, ()))
    if coded > len(tiff) + SLACK_BYTES:
        raise DecompressionBomb(f"the strips of the TIFF state {coded:,} bytes, but the file has {len(tiff):,}")
    pixels = fields.get(WIDTH, (0,))[0] * fields.get(HEIGHT, (0,))[0]
    tile = fields.get(TILE_WIDTH, (0,))[0] * fields.get(TILE_HEIGHT, (0,))[0]
    if tile > max(4 * pixels, MIN_TILE_PIXELS):
        raise DecompressionBomb(f"a tile of the TIFF has {tile:,} pixels, and the photo {pixels:,}")
    compression = fields.get(COMPRESSION, (1,))[0]
    if compression == OLD_JPEG:
        raise UnsupportedPhoto("the TIFF is compressed as JPEG in the old style (6), which is not supported")
    if compression == JPEG and tiff.count(START_OF_SCAN) - strips > min(
        MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels)
    ):
        raise DecompressionBomb(f"the TIFF has {strips:,} strips in JPEG with far more scans")


def _fields(tiff: bytes) -> Mapping[int, tuple[int, ...]]:
    """Return the numbers of each field of the first directory; the first of equals counts, as in Pillow."""
    order, is_big = SIGNATURES[tiff[:4]]
    pointer, count_format, entry_format = ("Q", "Q", "HHQ8s") if is_big else ("L", "H", "HHL4s")
    fields: dict[int, tuple[int, ...]] = {}
    try:
        (at,) = struct.unpack_from(order + pointer, tiff, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + count_format, tiff, at)
        if count > MAX_FIELDS:
            raise DecompressionBomb(f"the TIFF has {count:,} fields; the limit is {MAX_FIELDS:,}")
        at += struct.calcsize(order + count_format)
        for _ in range(count):
            tag, kind, length, value = struct.unpack_from(order + entry_format, tiff, at)
            at += struct.calcsize(order + entry_format)
            if kind in TYPES and tag not in fields:
                fields[tag] = _numbers(tiff, f"{order}{length}{TYPES[kind]}", value, order + pointer)
    except struct.error:
        pass  # cut off: the decoder says so
    return fields


def _numbers(tiff: bytes, form: str, value: bytes, pointer: str) -> tuple[int, ...]:
    if struct.calcsize(form) > len(tiff):
        raise DecompressionBomb(f"a field of the TIFF has {struct.calcsize(form):,} bytes, more than the file")
    if struct.calcsize(form) <= len(value):
        return struct.unpack_from(form, value)
    return struct.unpack_from(form, tiff, *struct.unpack(pointer, value))
