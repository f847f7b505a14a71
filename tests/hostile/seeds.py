"""Valid photos in every format, and the structure of their files."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from skimage import data

import service.vision.decoding  # noqa: F401 - registers HEIC with Pillow


def face() -> Image.Image:
    """Return a photo of 160 x 160 with one face: NASA's portrait of the astronaut Eileen Collins."""
    return Image.fromarray(data.astronaut()[40:200, 145:305])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(**tags: object) -> Image.Exif:
    """Make EXIF with an orientation and a camera's make."""
    metadata = Image.Exif()
    metadata[0x0112] = tags.get("orientation", 6)
    metadata[0x010F] = tags.get("make", "Camera")
    return metadata


@cache
def seeds() -> dict[str, bytes]:
    """Return a valid file of each kind, with metadata, by a name that starts with the format."""
    photo = face()
    transparent = photo.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = {"exif": exif(), "icc_profile": profile}
    gray16 = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    return {
        "jpeg baseline": encoded(photo, "JPEG", xmp=b"<x:xmpmeta/>", **metadata),
        "jpeg progressive": encoded(photo, "JPEG", progressive=True, **metadata),
        "jpeg restarts": encoded(photo, "JPEG", restart_marker_blocks=2),
        "jpeg gray": encoded(photo.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(photo.convert("CMYK"), "JPEG"),
        "png rgb": encoded(photo, "PNG", compress_level=1, **metadata),
        "png rgba": encoded(transparent, "PNG"),
        "png palette": encoded(photo.quantize(200), "PNG", transparency=3),
        "png 1-bit": encoded(photo.convert("1"), "PNG"),
        "png 16-bit": encoded(gray16, "PNG"),
        "png animated": encoded(photo, "PNG", save_all=True, append_images=[photo.rotate(90)] * 3),
        "webp lossy": encoded(photo, "WEBP", **metadata),
        "webp lossless": encoded(transparent, "WEBP", lossless=True),
        "webp animated": encoded(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)] * 3),
        "heif plain": encoded(photo, "HEIF", **metadata),
        "heif alpha": encoded(transparent, "HEIF"),
        "avif plain": encoded(photo, "AVIF", **metadata),
        "avif alpha": encoded(transparent, "AVIF", subsampling="4:4:4"),
        "avif animated": encoded(photo, "AVIF", save_all=True, append_images=[photo.rotate(90)] * 3),
        "gif palette": encoded(photo.quantize(200), "GIF", transparency=3, comment=b"a comment"),
        "gif animated": encoded(photo, "GIF", save_all=True, append_images=[photo.rotate(90)] * 3),
        "bmp rgb": encoded(photo, "BMP"),
        "bmp runs": bmp(64, 64, 8, compression=1, content=(b"\x10\x05" * 4 + b"\0\0") * 64 + b"\0\1"),
        "tiff raw": encoded(photo, "TIFF", exif=exif()),
        "tiff lzw": encoded(photo, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(photo, "TIFF", compression="jpeg"),
        "tiff big": encoded(gray16, "TIFF", big_tiff=True),
        "tiff pages": encoded(photo, "TIFF", save_all=True, append_images=[photo.rotate(90)]),
        "heif two": encoded(photo, "HEIF", save_all=True, append_images=[photo.rotate(90)]),
    }


def png_chunk(kind: bytes, content: bytes, *, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(
    width: int, height: int, depth: int, color: int, interlace: int = 0, *, rows: bytes | None = None
) -> bytes:
    """Make a black PNG with any header fields, valid or not, and a palette if the color type needs one."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 1)
    if rows is None:
        size = height * (1 + (width * samples * depth + 7) // 8) * (2 if interlace else 1)
        rows = bytes(min(size, 4_000_000))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    palette = png_chunk(b"PLTE", bytes(range(96))) if color == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + palette
        + png_chunk(b"IDAT", zlib.compress(rows, 9))
        + png_chunk(b"IEND", b"")
    )


def bmp(width: int, height: int, depth: int, *, compression: int = 0, content: bytes) -> bytes:
    """Make a BMP with any header fields, valid or not, and a palette of gray."""
    palette = b"".join(bytes([shade, shade, shade, 0]) for shade in range(256)) if depth <= 8 else b""
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(content), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + header + palette + content


def tiff(fields: dict[int, tuple[int, ...]], content: bytes = b"") -> bytes:
    """Make a TIFF of numbers by tag, as LONG; an offset of 8 points to the content."""
    values = b""
    at = 8 + len(content) + 2 + 12 * len(fields) + 4
    entries = []
    for tag, numbers in sorted(fields.items()):
        entry = struct.pack("<HHL", tag, 4, len(numbers))
        if len(numbers) == 1:
            entries.append(entry + struct.pack("<L", numbers[0]))
        else:
            entries.append(entry + struct.pack("<L", at + len(values)))
            values += struct.pack(f"<{len(numbers)}L", *numbers)
    directory = struct.pack("<H", len(fields)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<L", 8 + len(content)) + content + directory + values


def boundaries(name: str, file: bytes) -> list[int]:
    """Return the offsets of a file's chunks, segments, scans or boxes."""
    kind = name.partition(" ")[0]
    return sorted(
        set(
            {
                "jpeg": _jpeg,
                "png": _png,
                "webp": _webp,
                "heif": _heif,
                "avif": _heif,
                "gif": _gif,
                "bmp": _bmp,
                "tiff": _tiff,
            }[kind](file)
        )
    )


def _jpeg(file: bytes) -> Iterator[int]:
    at = 2
    while at < len(file) - 3:
        if file[at] != 0xFF or file[at + 1] in (0, 0xFF):
            at += 1
            continue
        yield at
        at += 2 if 0xD0 <= file[at + 1] <= 0xD9 else 2 + int.from_bytes(file[at + 2 : at + 4])


def _png(file: bytes) -> Iterator[int]:
    at = 8
    while at < len(file):
        yield at
        at += 12 + int.from_bytes(file[at : at + 4])


def _webp(file: bytes) -> Iterator[int]:
    at = 12
    while at < len(file):
        yield at
        size = int.from_bytes(file[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _heif(file: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
    """Find boxes, including nested ones (ISO/IEC 14496-12, 23008-12)."""
    at, end = start, len(file) if end is None else end
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", file, at)
        yield at
        if size < 8:
            return
        inside = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"moov": 8}.get(kind)
        if inside:
            yield from _heif(file, at + inside, at + size)
        at += size


def _gif(file: bytes) -> Iterator[int]:
    """Find blocks (GIF89a), without those inside of images."""
    at = 13 + (3 << (file[10] & 7) + 1 if file[10] & 128 else 0)
    while at < len(file) and file[at] in b"!,":
        yield at
        if file[at] == ord("!"):
            at += 2
        else:
            at += 11 + (3 << (file[at + 9] & 7) + 1 if file[at + 9] & 128 else 0)
        while at < len(file) and file[at]:
            at += 1 + file[at]
        at += 1


def _bmp(file: bytes) -> Iterator[int]:
    yield from (2, 10, 14, 18, 22, 26, 28, 30, 34, 46, int.from_bytes(file[10:14], "little"))


def _tiff(file: bytes) -> Iterator[int]:
    """Find the fields of the first directory."""
    is_big = file[2] == ord("+")
    width, head, entry = (8, 8, 20) if is_big else (4, 2, 12)
    start = int.from_bytes(file[width : 2 * width], "little")
    for number in range(int.from_bytes(file[start : start + head], "little")):
        yield start + head + entry * number
