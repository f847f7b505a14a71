"""Limit what decoding an AVIF costs, by its boxes (ISO/IEC 14496-12 and 23008-12) and AV1 headers (AV1, 5.5).

The size that an AVIF states, which limits are checked against, is only that of the answer: each coded frame has a
size of its own, and any number of frames that are never shown may come before the one that is.
"""

from collections.abc import Iterator

from service.vision.bomb_checks import DecompressionBomb

MAX_BOXES = 100_000

MAX_FRAME_SHARE = 2
"""A coded frame's pixels by those of the photo. Frames are padded, and tiles may reach beyond its edges."""

MAX_CODED_SHARE = 12
"""Pixels of all coded frames by those of the photo: its layers, its tiles, its alpha plane and its thumbnails."""

SLACK_PIXELS = 256 * 256
"""Added to the pixels of a photo, for the padding of small ones."""

SEQUENCE_HEADER, FRAME_HEADER, FRAME = 1, 3, 6
"""Types of open bitstream units (AV1, 6.2.2)."""

Box = tuple[bytes, int, int]
"""Type of a box, and where its content begins and ends."""


def as_still(avif: bytes) -> bytes:
    """Return an AVIF of which only the still image is decoded: without the brand and the tracks of a sequence."""
    parts, position = [], 0
    for kind, start, end in _boxes(avif, 0, len(avif)):
        if kind in (b"ftyp", b"moov"):
            parts.append(avif[position:start] if kind == b"ftyp" else avif[position : start - 4] + b"free")
            parts.append(avif[start:end].replace(b"avis", b"avif") if kind == b"ftyp" else avif[start:end])
            position = end
    return b"".join([*parts, avif[position:]])


def check_frames(avif: bytes, pixel_count: int) -> None:
    """Check the coded frames of an AVIF whose header states ``pixel_count`` pixels.

    Raises:
        DecompressionBomb: They have more pixels than ``MAX_FRAME_SHARE`` or ``MAX_CODED_SHARE`` allows, or fewer
            than the photo, to which they would be enlarged.
    """
    allowed, coded, count = pixel_count + SLACK_PIXELS, 0, 0
    for item in _coded_items(avif):
        for frames, pixels in _sequences(item):
            coded, count = coded + frames * pixels, count + frames
            if pixels > MAX_FRAME_SHARE * allowed or coded > MAX_CODED_SHARE * allowed:
                raise DecompressionBomb(
                    f"the AVIF codes {count:,} frames with {coded / 1e6:,.1f} Mpx and more "
                    f"for a photo of {pixel_count / 1e6:,.1f} Mpx"
                )
    if coded < pixel_count:
        raise DecompressionBomb(f"the AVIF codes {coded:,} pixels for a photo of {pixel_count:,}")


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    count = 0
    while start + 8 <= end:
        count += 1
        if count > MAX_BOXES:
            raise DecompressionBomb(f"the AVIF has more than {MAX_BOXES:,} boxes")
        size, kind, head = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        stop = end if size == 0 else min(end, start + size)
        if stop < start + head:
            return
        yield kind, start + head, stop
        start = stop


def _coded_items(avif: bytes) -> Iterator[bytes]:
    """Yield the content of each AV1 item, all extents joined."""
    for kind, start, end in _boxes(avif, 0, len(avif)):
        if kind == b"meta":
            inside = {box[0]: box for box in _boxes(avif, start + 4, end)}
            av1 = set(_av1_items(avif, inside[b"iinf"])) if b"iinf" in inside else set()
            if b"iloc" in inside:
                idat = inside.get(b"idat", (b"", 0, 0))
                joined = 0
                for item, extents in _extents(avif, inside[b"iloc"], idat):
                    joined += sum(last - first for first, last in extents)
                    if joined > 2 * len(avif):
                        raise DecompressionBomb(
                            f"the items of the AVIF have more than twice its {len(avif):,} bytes"
                        )
                    if item in av1:
                        yield b"".join(avif[first:last] for first, last in extents)


def _av1_items(avif: bytes, iinf: Box) -> Iterator[int]:
    _, start, end = iinf
    for kind, at, _ in _boxes(avif, start + (6 if avif[start] == 0 else 8), end):
        if kind == b"infe":
            width = 2 if avif[at] == 2 else 4
            if avif[at + 6 + width : at + 10 + width] == b"av01":
                yield int.from_bytes(avif[at + 4 : at + 4 + width])


def _extents(avif: bytes, iloc: Box, idat: Box) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield each item's number, and where the pieces of its content begin and end in the file."""
    _, at, end = iloc
    version, sizes = avif[at], int.from_bytes(avif[at + 4 : at + 6])
    offset_size, length_size, base_size, index_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    at += 6

    def read(width: int) -> int:
        nonlocal at
        at += width
        return int.from_bytes(avif[at - width : at])

    number_size = 2 if version < 2 else 4
    for _ in range(read(number_size)):
        if at >= end:
            return
        item = read(number_size)
        in_idat = version > 0 and read(2) & 15 == 1
        read(2)
        base = read(base_size) + (idat[1] if in_idat else 0)
        extents = []
        for _ in range(min(read(2), end - at)):
            if version > 0:
                read(index_size)
            first, length = base + read(offset_size), read(length_size)
            extents.append((first, first + length if length else len(avif)))
        yield item, extents


def _sequences(item: bytes) -> Iterator[tuple[int, int]]:
    """Yield the count of frames after each sequence header of an item, and the most pixels that one may have."""
    frames, pixels, at = 0, 0, 0
    while at < len(item):
        head, at = item[at], at + 1
        kind = head >> 3 & 15
        at += head >> 2 & 1  # an extension
        length = len(item) - at
        if head & 2:
            length, at = _leb128(item, at)
        if kind == SEQUENCE_HEADER:
            if frames:
                yield frames, pixels
            frames, pixels = 0, _max_pixels(item[at : at + length])
        frames += kind in (FRAME_HEADER, FRAME)
        at += length
    if frames:
        yield frames, pixels


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    return len(data), len(data)


class _Bits:
    """Reads bits, the highest of each byte first; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data + bytes(16)
        self._at = 0

    def read(self, count: int) -> int:
        first, self._at = self._at, self._at + count
        chunk = self._data[first // 8 : -(-self._at // 8)]
        return int.from_bytes(chunk) >> -self._at % 8 & (1 << count) - 1

    def skip_unless_zero(self, flag: int, count: int) -> None:
        if flag:
            self.read(count)


def _max_pixels(header: bytes) -> int:
    """Return width times height of a sequence header (AV1, 5.5.1)."""
    bits = _Bits(header[:512])
    bits.read(4)  # profile, still picture
    if bits.read(1):  # a reduced header
        bits.read(5)
    else:
        delay_bits = _skip_timing(bits)
        displayed_later = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            bits.skip_unless_zero(bits.read(5) > 7, 1)
            if delay_bits:
                bits.skip_unless_zero(bits.read(1), 2 * delay_bits + 1)
            if displayed_later:
                bits.skip_unless_zero(bits.read(1), 4)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)


def _skip_timing(bits: _Bits) -> int:
    """Skip timing and decoder model; return how many bits each operating point's delays have, 0 if none."""
    if not bits.read(1):
        return 0
    bits.read(64)
    if bits.read(1):  # ticks of a picture, as uvlc (AV1, 4.10.3)
        zeros = 0
        while zeros < 32 and not bits.read(1):
            zeros += 1
        bits.skip_unless_zero(zeros < 32, zeros)
    if not bits.read(1):
        return 0
    delay_bits = bits.read(5) + 1
    bits.read(42)
    return delay_bits
