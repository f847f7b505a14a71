"""How a file is put together, read before a decoder reads it: small files can keep a decoder busy for minutes.

Pillow reads every chunk and every segment in Python, and copies all EXIF segments together again for each one; and
libjpeg goes over the whole picture for each scan, of which a hundred bytes can make one.
"""

import re
import struct

MAX_CHUNKS = 50_000
"""Of a PNG: at 1 KiB each, which is less than encoders write, that is more than any upload."""

MAX_SEGMENTS = 2_000
"""Of a JPEG. Large colour profiles and MPF previews make some hundred."""

MAX_SCANS = 100
MAX_SCANNED_PIXELS = 1_000_000_000
"""Scans of a progressive JPEG times its pixels; encoders write about ten scans."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
ALONE = (0x01, *range(0xD0, 0xD9))
"""JPEG markers without a length: TEM, RST0 to RST7, SOI."""

MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends a scan's coded data: there 0xFF is followed by 0x00, or is a restart marker (ITU T.81, B.1.1.5)."""


class DecompressionBomb(ValueError):
    """A decoder would take too long for the file."""


def check_structure(data: bytes) -> None:
    """Look at the parts of a PNG, or at those of a JPEG before its first scan.

    Raises:
        TooIntricate: they are too many.
    """
    if data.startswith(PNG_SIGNATURE):
        _check_chunks(data)
    elif data.startswith(JPEG_SIGNATURE):
        count_scans(data, 0)


def _check_chunks(data: bytes) -> None:
    at, count = len(PNG_SIGNATURE), 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        count += 1
        if count > MAX_CHUNKS:
            raise DecompressionBomb(f"the PNG has more than {MAX_CHUNKS:,} chunks")
        if kind == b"IEND":
            return
        at += 12 + length


def count_scans(data: bytes, limit: int) -> int:
    """The scans of a JPEG, as many as there are up to one more than ``limit``.

    Raises:
        TooIntricate: it has too many segments.
    """
    at, scans, segments = 2, 0, 0
    while scans <= limit:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if not 0 <= at < len(data) - 3:
            return scans
        marker = data[at + 1]
        if marker == END_OF_IMAGE:
            return scans
        segments += 1
        if segments > MAX_SEGMENTS:
            raise DecompressionBomb(f"the JPEG has more than {MAX_SEGMENTS:,} segments")
        if marker == 0 or marker in ALONE:
            at += 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == START_OF_SCAN:
            scans += 1
            found = MARKER_IN_SCAN.search(data, at)
            at = found.start() if found else len(data)
    return scans


def check_scans(data: bytes, pixels: int) -> None:
    """Refuse a JPEG of that many pixels whose scans would take too long.

    Raises:
        TooIntricate: there are more than ``MAX_SCANS``, or than ``MAX_SCANNED_PIXELS`` allows.
    """
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    if count_scans(data, most) > most:
        raise DecompressionBomb(f"the JPEG has more than {most} scans of {pixels / 1e6:,.1f} Mpx each")
