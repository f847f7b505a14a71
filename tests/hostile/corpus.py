"""More than three hundred files that violate their format, each in a different way."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .seeds import boundaries, encoded, exif, face, png, png_chunk, seeds

MUTANTS = 4
"""Randomly damaged files per seed."""


@dataclass(frozen=True)
class HostileFile:
    """A file, its kind of attack and its name."""

    kind: str
    name: str
    data: bytes


def corpus() -> Iterator[HostileFile]:
    """Generate all files, the same ones every time."""
    for kind, generate in KINDS.items():
        for name, data in generate():
            yield HostileFile(kind, name, data)


Files = Iterator[tuple[str, bytes]]


def _truncated() -> Files:
    for name, file in seeds().items():
        places = boundaries(name, file)
        for at in places:
            yield f"{name} cut at {at}", file[:at]
        for at, after in zip(places, [*places[1:], len(file)], strict=True):
            if after - at > 8:  # in the middle
                yield f"{name} cut at {(at + after) // 2}", file[: (at + after) // 2]


def _dimensions() -> Files:
    """Headers with false widths and heights."""
    sizes = (0, 1, 159, 161, 65_535)
    for name, file in seeds().items():
        if name.startswith("jpeg"):
            at = next(b for b in boundaries(name, file) if file[b + 1] in (0xC0, 0xC1, 0xC2)) + 5
            for size in sizes:
                yield f"{name} says {size}", file[:at] + struct.pack(">HH", size, size) + file[at + 4 :]
    for size in (0, 1, 65_535, 2**31 - 1, 2**31, 2**32 - 1):
        yield f"png says {size}", png(size, size, 8, 2, rows=bytes(1000))
        yield f"png says {size} x 1", png(size, 1, 8, 2, rows=bytes(1000))
    lossy = seeds()["webp lossy"]
    at = lossy.index(b"VP8X") + 12
    for size in (0, 1, 200, 16_383, 2**24 - 1):
        canvas = size.to_bytes(3, "little") * 2
        yield f"webp canvas {size}", lossy[:at] + canvas + lossy[at + 6 :]
    plain = seeds()["heif plain"]
    at = plain.index(b"ispe") + 8
    for size in (0, 1, 161, 20_000, 2**31, 2**32 - 1):
        yield f"heif says {size}", plain[:at] + struct.pack(">II", size, size) + plain[at + 8 :]


def _fields() -> Files:
    """Invalid depths, color types, component counts and lengths."""
    for depth in (0, 1, 2, 4, 8, 16, 32):
        for color in (0, 1, 2, 3, 4, 6, 7):
            for interlace in (0, 1):
                yield (
                    f"png depth {depth} color {color} interlace {interlace}",
                    png(33, 9, depth, color, interlace),
                )
    base = seeds()["jpeg baseline"]
    frame = next(b for b in boundaries("jpeg", base) if base[b + 1] == 0xC0)
    for offset, what in ((4, "precision"), (9, "components"), (11, "sampling"), (12, "table")):
        for value in (0, 1, 2, 5, 12, 255):
            at = frame + offset
            yield f"jpeg {what} {value}", base[:at] + bytes([value]) + base[at + 1 :]
    for name in ("jpeg baseline", "png rgb", "webp lossy", "heif plain"):
        file = seeds()[name]
        width = 2 if name.startswith("jpeg") else 4
        shift = {"jpeg": 2, "webp": 4}.get(name.partition(" ")[0], 0)
        for place in boundaries(name, file):
            at = place + shift
            for length in (0, 2 ** (8 * width) - 1):
                changed = length.to_bytes(width, "big") + file[at + width :]
                yield f"{name} length {length} at {place}", file[:at] + changed


def _checksums() -> Files:
    for name, file in seeds().items():
        if name.startswith("png"):
            places = [*boundaries(name, file), len(file)]
            for after in places[1:]:
                yield (
                    f"{name} wrong checksum before {after}",
                    file[: after - 1] + bytes([file[after - 1] ^ 1]) + file[after:],
                )


def _bombs() -> Files:
    image = png(33, 9, 8, 2)
    yield "png 40,000 x 40,000", png(40_000, 40_000, 1, 0, rows=bytes(1_000_000))
    yield "png with 100 MB of extra rows", png(64, 64, 8, 2, rows=bytes(100_000_000))
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        bomb = png_chunk(kind, head + zlib.compress(bytes(200_000_000), 9))
        yield f"png {kind.decode()} of 200 MB", image[:33] + bomb + image[33:]
    for kind in (b"tEXt", b"IDAT", b"abCd", b"fdAT"):
        for count in (1000, 100_000):
            yield f"png {count} {kind.decode()}", image[:33] + png_chunk(kind, b"") * count + image[33:]
    base = seeds()["jpeg baseline"]
    for name, segment in {
        "comments": b"\xff\xfe\0\2",
        "EXIFs": b"\xff\xe1\0\x09Exif\0\0x",
        "profiles": b"\xff\xe2\0\x10ICC_PROFILE\0\1\xff",
        "Photoshops": b"\xff\xed\0\x10Photoshop 3.0\0",
        "Adobes": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0",
        "quantisations": b"\xff\xdb\0\x43\0" + bytes([1] * 64),
    }.items():
        for count in (1000, 100_000):
            yield f"jpeg {count} {name}", base[:2] + segment * count + base[2:]
    gray = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = gray[gray.rfind(b"\xff\xc4") : -2]
    for count in (20, 2000):
        yield f"jpeg {count} scans", gray[:-2] + last * count + b"\xff\xd9"
    lossless = seeds()["webp lossless"]
    at = lossless.index(b"VP8L") + 9
    yield "webp 16,384 x 16,384", lossless[:at] + b"\xff\xff\xff\x0f" + lossless[at + 4 :]
    chunks = lossless[12:] + b"abcd\0\0\0\0" * 100_000
    yield "webp 100,000 chunks", b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
    plain = seeds()["heif plain"]
    start = int.from_bytes(plain[:4])
    yield "heif 100,000 boxes", plain[:start] + b"\0\0\0\x08free" * 100_000 + plain[start:]
    nested = b"free"
    for _ in range(2000):
        nested = struct.pack(">I4s", len(nested) + 8, b"ipco") + nested
    yield "heif nested", plain[:start] + nested + plain[start:]


def _polyglots() -> Files:
    photos = {name: seeds()[name] for name in ("jpeg baseline", "png rgb", "webp lossy", "heif plain")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.js", "alert(1)")
    others = {
        "zip": buffer.getvalue(),
        "html": b"<html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n",
        "gif": encoded(face().convert("P"), "GIF"),
        "shell": b"#!/bin/sh\nid\n",
        "php": b"<?php phpinfo(); ?>",
    }
    for name, photo in photos.items():
        for other, content in others.items():
            yield f"{name} then {other}", photo + content
            yield f"{other} then {name}", content + photo
    for name, photo in photos.items():
        for other, content in photos.items():
            if name != other:
                yield f"{name} then {other}", photo + content
    base = photos["jpeg baseline"]
    yield (
        "jpeg with a comment of HTML",
        base[:2] + b"\xff\xfe\0\x21<script>alert(document)</script>"[:35] + base[2:],
    )


def _metadata() -> Files:
    photo = face()
    for orientation in (0, 9, 255, 65_535):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield f"{kind} orientation {orientation}", encoded(photo, kind, exif=exif(orientation=orientation))
    head = b"Exif\0\0MM\0*\0\0\0\x08"
    for name, directory in {
        "loops": b"\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\x08",
        "has 65,535 entries": b"\xff\xff" + b"\x01\x12\0\3\0\0\0\1\0\6\0\0" * 5000,
        "points outside": b"\0\1\x01\x12\0\3\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
        "has unknown types": b"\0\1\x01\x12\0\xff\0\0\0\1\0\6\0\0\0\0\0\0",
        "has a text as orientation": b"\0\1\x01\x12\0\2\0\0\0\4six\0\0\0\0\0",
        "has two orientations": b"\0\1\x01\x12\0\3\0\0\0\2\0\6\0\3\0\0\0\0",
        "is cut off": b"\0\x09\x01",
        "points to itself": b"\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\0",
        "is empty": b"",
    }.items():
        for kind in ("JPEG", "PNG", "WEBP", "HEIF"):
            yield f"{kind} whose EXIF {name}", encoded(photo, kind, exif=head + directory)
    yield "jpeg EXIF of 65 kB", encoded(photo, "JPEG", exif=exif(make="x" * 65_000))
    for kind in ("PNG", "WEBP", "HEIF"):
        yield f"{kind} EXIF of 5 MB", encoded(photo, kind, exif=exif(make="x" * 5_000_000))
    for kind in ("JPEG", "PNG", "WEBP", "HEIF"):
        yield f"{kind} profile of 3 MB", encoded(photo, kind, icc_profile=bytes(3_000_000))
        yield f"{kind} invalid profile", encoded(photo, kind, icc_profile=b"invalid" * 20)
    for kind, limit in (("JPEG", 65_000), ("WEBP", 3_000_000), ("HEIF", 3_000_000)):
        yield f"{kind} XMP of {limit} bytes", encoded(photo, kind, xmp=b"<a>" * (limit // 3))


def _oddities() -> Files:
    """Valid but unusual files, and other formats."""
    photo = face()
    cmyk = seeds()["jpeg cmyk"]
    adobe = cmyk.index(b"\xff\xee")
    yield "jpeg CMYK without Adobe", cmyk[:adobe] + cmyk[adobe + 16 :]
    for transform in (0, 1, 2, 255):
        yield f"jpeg Adobe transform {transform}", cmyk[: adobe + 15] + bytes([transform]) + cmyk[adobe + 16 :]
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            file = encoded(photo, "JPEG", subsampling=subsampling, progressive=progressive)
            yield f"jpeg subsampling {subsampling} progressive {progressive}", file
    for side in ((1, 1), (1, 160), (160, 1), (2, 3), (1, 5000), (5000, 1), (7, 7)):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield f"{kind} {side[0]} x {side[1]}", encoded(photo.resize(side), kind)
    for shade in ("white", "black"):
        yield f"png all {shade}", encoded(Image.new("RGB", (160, 160), shade), "PNG")
    yield "png noise", encoded(Image.effect_noise((160, 160), 90), "PNG")
    pixels = np.asarray(photo).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    yield "png 16-bit RGB", png(160, 160, 16, 2, rows=rows)
    yield (
        "png palette of one color",
        png(9, 9, 8, 3).replace(png_chunk(b"PLTE", bytes(range(96))), png_chunk(b"PLTE", b"\0\0\0")),
    )
    yield "png without palette", png(9, 9, 8, 3).replace(png_chunk(b"PLTE", bytes(range(96))), b"")
    yield "png wrong filter", png(9, 9, 8, 0, rows=b"\x09" * 90)
    yield "png no IDAT", png(9, 9, 8, 0)[:33] + png_chunk(b"IEND", b"")
    yield "png IDAT no zlib", png(9, 9, 8, 0)[:33] + png_chunk(b"IDAT", b"invalid") + png_chunk(b"IEND", b"")
    for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "PCX", "JPEG2000", "AVIF"):
        yield f"a {kind}", encoded(photo.convert("P") if kind == "GIF" else photo, kind)
    yield from {
        "nothing": b"",
        "one byte": b"\xff",
        "zeros": bytes(10_000),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        "PSD": b"8BPS\0\1" + bytes(100),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "pickle": b"cos\nsystem\n(S'id'\ntR.",
    }.items()
    heif = seeds()["heif plain"]
    for brand in (b"avif", b"mif1", b"hevc", b"xxxx"):
        yield f"heif brand {brand.decode()}", heif[:8] + brand + heif[12:]
    for box in (b"pitm", b"iloc", b"iinf", b"hvcC", b"ispe", b"pixi", b"ipma", b"hdlr"):
        yield f"heif without {box.decode()}", heif.replace(box, b"free")


def _damaged() -> Files:
    """Files with random bytes changed, the same ones every time."""
    for name, file in seeds().items():
        for number in range(MUTANTS):
            generator = random.Random(f"{name} {number}")  # noqa: S311 - not a secret
            damaged = bytearray(file)
            for _ in range(1 + 3**number):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            yield f"{name} damaged {number}", bytes(damaged)


KINDS = {
    "truncated": _truncated,
    "dimensions": _dimensions,
    "fields": _fields,
    "checksums": _checksums,
    "bombs": _bombs,
    "polyglots": _polyglots,
    "metadata": _metadata,
    "oddities": _oddities,
    "damaged": _damaged,
}
