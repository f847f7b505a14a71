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

from .seeds import bmp, boundaries, encoded, exif, face, png, png_chunk, seeds, tiff

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
    avif = seeds()["avif plain"]
    at = avif.index(b"ispe") + 8
    for size in (0, 1, 161, 7000, 20_000, 2**31, 2**32 - 1):
        yield f"avif says {size}", avif[:at] + struct.pack(">II", size, size) + avif[at + 8 :]
    gif = seeds()["gif palette"]
    frame = next(at for at in boundaries("gif", gif) if gif[at : at + 1] == b",")
    for size in (0, 1, 7000, 65_535):
        sides = struct.pack("<HH", size, size)
        yield f"gif says {size}", gif[:6] + sides + gif[10:]
        yield f"gif frame says {size}", gif[: frame + 5] + sides + gif[frame + 9 :]
        yield f"gif frame at {size}", gif[: frame + 1] + sides + gif[frame + 5 :]
    for size in (0, 1, 7000, 40_000, 2**31 - 1, -1, -160, -7000, -(2**31)):
        for depth in (1, 8, 24):
            yield f"bmp of {depth} bits says {size}", bmp(160, size, depth, content=bytes(80_000))
            yield f"bmp of {depth} bits says {size} wide", bmp(size, 160, depth, content=bytes(80_000))
    for size in (0, 1, 7000, 40_000, 2**31, 2**32 - 1):
        for compression in (1, 5, 8, 7):
            fields = TIFF_FIELDS | {256: (size,), 257: (size,), 259: (compression,)}
            yield f"tiff compressed by {compression} says {size}", tiff(fields, bytes(1000))


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
    for depth in (0, 1, 2, 4, 8, 12, 16, 24, 32, 64):
        for compression in range(7):
            yield (
                f"bmp depth {depth} compression {compression}",
                bmp(33, 9, depth, compression=compression, content=bytes(2000)),
            )
        for samples in (0, 1, 3, 4, 5, 7, 65_535):
            fields = TIFF_FIELDS | {
                258: (depth,) * min(samples, 9),
                277: (samples,),
                262: (2 if samples > 2 else 1,),
            }
            yield (
                f"tiff depth {depth} samples {samples}",
                tiff({k: v for k, v in fields.items() if v}, bytes(9000)),
            )
    for name in ("jpeg baseline", "png rgb", "webp lossy", "heif plain", "avif plain"):
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
    yield from _gif_bombs()
    yield from _bmp_bombs()
    yield from _tiff_bombs()
    yield from _avif_bombs()
    nested = b"free"
    for _ in range(2000):
        nested = struct.pack(">I4s", len(nested) + 8, b"ipco") + nested
    yield "heif nested", plain[:start] + nested + plain[start:]


def _gif_bombs() -> Files:
    gif = seeds()["gif palette"]
    start = next(iter(boundaries("gif", gif)))
    for count in (1000, 100_000, 5_000_000):
        for kind in (b"\xfe", b"\xff", b"\x01"):
            yield (
                f"gif {count} blocks {kind.hex()}",
                gif[:start] + b"!" + kind + b"\1x" * count + b"\0" + gif[start:],
            )
    for count in (1000, 100_000):
        yield f"gif {count} comments", gif[:start] + b"!\xfe\1x\0" * count + gif[start:]
    animated = seeds()["gif animated"]
    yield "gif 100,000 frames", animated[:-1] + b",\0\0\0\0\1\0\1\0\0\2\2L\1\0" * 100_000 + b";"
    codes = encoded(Image.new("P", (7000, 7000)), "GIF")
    yield "gif of one color, 49 Mpx", codes


def _bmp_bombs() -> Files:
    yield "bmp 40,000 x 40,000 of 1 bit", bmp(40_000, 40_000, 1, content=bytes(100_000))
    runs = (b"\1\5" * 4000 + b"\0\0") * 1000
    yield "bmp 4 million runs of a pixel", bmp(4000, 1000, 8, compression=1, content=runs + b"\0\1")
    yield "bmp 49 Mpx without a run", bmp(7000, 7000, 8, compression=1, content=b"\0\1")
    yield "bmp jumps", bmp(4000, 4000, 8, compression=1, content=b"\0\2\xff\xff" * 100_000)


TIFF_FIELDS = {
    256: (33,),
    257: (9,),
    258: (8,),
    259: (1,),
    262: (1,),
    273: (8,),
    277: (1,),
    278: (9,),
    279: (297,),
}
"""A gray TIFF of 33 x 9 pixels in one strip."""


def _tiff_bombs() -> Files:
    content = bytes(1_000_000)
    large = {256: (7000,), 257: (7000,)}
    deflated = zlib.compress(bytes(7000 * 7000), 9)
    whole = {259: (8,), 278: (7000,), 279: (len(deflated),)}
    yield "tiff deflated, 49 Mpx", tiff(TIFF_FIELDS | large | whole, deflated)
    for count in (1000, 60_000):
        fields = {1000 + number: (0,) for number in range(count)}
        yield f"tiff {count} fields", tiff(TIFF_FIELDS | fields, content)
    yield (
        "tiff field of 4 GB",
        tiff(TIFF_FIELDS, content).replace(
            struct.pack("<HHLL", 273, 4, 1, 8), struct.pack("<HHLL", 273, 4, 2**30, 8)
        ),
    )
    for compression in (1, 5, 8):
        rows = {259: (compression,), 278: (1,), 273: (8,) * 7000, 279: (1_000_000,) * 7000}
        yield f"tiff strips that overlap, compressed by {compression}", tiff(TIFF_FIELDS | large | rows, content)
    pixels = {256: (600,), 257: (600,), 278: (1,), 273: (8,) * 360_000, 279: (1,) * 360_000}
    yield "tiff 360,000 strips", tiff(TIFF_FIELDS | pixels, content)
    strip = {273, 278, 279}
    for compression in (1, 5, 8):
        for side in (16, 2**14, 2**16, 2**31):
            tile = {322: (side,), 323: (side,), 324: (8,), 325: (1_000_000,), 259: (compression,)}
            fields = {tag: value for tag, value in TIFF_FIELDS.items() if tag not in strip} | tile
            yield f"tiff a tile of {side}, compressed by {compression}", tiff(fields, content)
    progressive = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = progressive[progressive.rfind(b"\xff\xc4") : -2]
    scans = progressive[:-2] + last * 2000 + b"\xff\xd9"
    side = {256: (4000,), 257: (4000,), 278: (4000,), 259: (7,), 279: (len(scans),)}
    yield "tiff jpeg 2000 scans", tiff(TIFF_FIELDS | side, scans)
    yield "tiff old jpeg", tiff(TIFF_FIELDS | side | {259: (6,), 513: (8,), 514: (len(scans),)}, scans)
    yield "tiff thumbnail", tiff(TIFF_FIELDS | {254: (1,)}, content)
    chain = tiff(TIFF_FIELDS, content)
    yield "tiff next is itself", chain[:-4] + chain[4:8]


def _avif_bombs() -> Files:
    photo = encoded(Image.new("RGB", (4000, 4000)), "AVIF", speed=10)
    at = photo.index(b"ispe") + 8
    for size in (64, 1000):
        yield f"avif {size} that codes 4000", photo[:at] + struct.pack(">II", size, size) + photo[at + 8 :]
    content = photo[photo.index(b"mdat") + 4 :]
    sequence, frame = content[: 2 + content[1]], content[2 + content[1] :]
    for count in (3, 5000):
        repeated = sequence + frame * count
        head = photo[: -len(content)].replace(len(content).to_bytes(4), len(repeated).to_bytes(4))
        yield f"avif {count} frames", head[:-8] + (8 + len(repeated)).to_bytes(4) + b"mdat" + repeated
    plain = seeds()["avif plain"]
    start = int.from_bytes(plain[:4])
    yield "avif 200,000 boxes", plain[:start] + b"\0\0\0\x08free" * 200_000 + plain[start:]


def _polyglots() -> Files:
    names = (
        "jpeg baseline",
        "png rgb",
        "webp lossy",
        "heif plain",
        "avif plain",
        "gif palette",
        "bmp rgb",
        "tiff raw",
    )
    photos = {name: seeds()[name] for name in names}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.js", "alert(1)")
    others = {
        "zip": buffer.getvalue(),
        "html": b"<html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n",
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
    for kind in ("GIF", "ICO", "PPM", "TGA", "PCX", "JPEG2000"):
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
