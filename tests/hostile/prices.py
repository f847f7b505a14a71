"""Print what the dearest photos that are accepted cost: CPU seconds to find their faces, and to draw in them.

    python -m tests.hostile.prices [NAME...]

Each has just less than the 50 Mpx that are allowed, or as many bytes or scans. Takes some minutes, mostly to make
them. Exits with 1 if finding faces takes more than MAX_CPU_S.
"""

import io
import struct
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_MEMORY

from service.errors import TandemError
from service.schemas import ImageSize, PhotoEmotions
from service.vision.bomb_checks import MAX_METADATA_CHUNKS, MAX_SCANNED_PIXELS, MAX_SIDE
from service.workers.tasks import CropSpec, DetectionOptions, draw_answer, face_pipeline, find_faces

from .seeds import encoded, face, png, png_chunk
from .trial import MAX_PIXELS, TEMPLATE

MAX_CPU_S = 4.0
SIDE = 7000
WIDE = (SIDE, SIDE)
OPTIONS = DetectionOptions(max_faces=100, min_face_size=0, threshold=0.6)
CROP = CropSpec((48, 48), np.array(TEMPLATE), None)


def flat(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", WIDE, (120, 130, 140)).convert(mode)


def noise(width: int, height: int, channels: int = 3, deviation: float = 15) -> Image.Image:
    pixels = np.random.default_rng(1).normal(128, deviation, (height, width, channels)).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8).squeeze())


def with_a_face(image: Image.Image) -> Image.Image:
    """Add a face that is only found, or only cropped, in the photo at full size."""
    image.paste(face().resize((60, 60)).convert(image.mode), (3000, 3000))
    return image


def filtered_png(*, interlaced: bool) -> bytes:
    """A PNG of 16 bits with alpha, whose every row has the filter that takes longest (Paeth)."""
    # First column and row, and steps between columns and rows, of each pass: section 8 of the PNG specification.
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = adam7 if interlaced else [(0, 0, 1, 1)]
    rows = b"".join(
        (b"\4" + bytes(8 * len(range(left, SIDE, columns)))) * len(range(top, SIDE, rows))
        for left, top, columns, rows in passes
    )
    return png(SIDE, SIDE, 16, 6, int(interlaced), rows=rows)


def run_length_bitmap() -> bytes:
    """A BMP whose rows are runs of five pixels, so that it is just small enough (compression BI_RLE8)."""
    rows = (b"\5\7" * (SIDE // 5) + b"\0\0") * SIDE
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + header + palette + rows


def scans(image: Image.Image, quality: int) -> bytes:
    """A progressive JPEG that repeats its last scan as often as is allowed, at which libjpeg warns."""
    jpeg = encoded(image, "JPEG", progressive=True, quality=quality, subsampling=0)
    last = jpeg[jpeg.rfind(b"\xff\xc4") : -2]
    left = MAX_SCANNED_PIXELS // (image.width * image.height * 2) - jpeg.count(b"\xff\xda")
    return jpeg[:-2] + last * max(0, left) + b"\xff\xd9"


def texts() -> bytes:
    chunk = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MAX_TEXT_MEMORY // MAX_METADATA_CHUNKS - 1), 9))
    plain = encoded(flat(), "PNG")
    return plain[:33] + chunk * (MAX_METADATA_CHUNKS - 2) + plain[33:]


PHOTOS: dict[str, Callable[[], bytes]] = {
    "JPEG, noise": lambda: encoded(with_a_face(noise(*WIDE)), "JPEG", quality=60),
    "JPEG, progressive": lambda: encoded(with_a_face(noise(*WIDE)), "JPEG", quality=40, progressive=True),
    "JPEG, progressive in CMYK": lambda: encoded(
        noise(*WIDE).convert("CMYK"), "JPEG", quality=20, progressive=True
    ),
    "JPEG, as many scans as allowed, gray": lambda: scans(with_a_face(noise(*WIDE, channels=1)), 20),
    "JPEG, as many scans as allowed, RGB": lambda: scans(with_a_face(noise(*WIDE)), 15),
    "JPEG, wide": lambda: encoded(noise(65_000, 760), "JPEG", progressive=True, quality=30),
    "PNG, flat": lambda: encoded(flat(), "PNG"),
    "PNG, noise in gray": lambda: encoded(noise(5000, 4000, channels=1), "PNG", compress_level=1),
    "PNG, 16 bits, alpha, Paeth": lambda: filtered_png(interlaced=False),
    "PNG, 16 bits, alpha, Paeth, interlaced": lambda: filtered_png(interlaced=True),
    "PNG, as tall as allowed": lambda: png(760, MAX_SIDE, 8, 2, rows=bytes((760 * 3 + 1) * MAX_SIDE)),
    "PNG, as many texts as allowed": texts,
    "WebP, flat": lambda: encoded(flat(), "WEBP", lossless=True, method=0, quality=0),
    "WebP, noise": lambda: encoded(noise(*WIDE), "WEBP", quality=15, method=0),
    "WebP, lossless noise": lambda: encoded(noise(3200, 2500, deviation=10), "WEBP", lossless=True, method=0),
    "HEIC, flat": lambda: encoded(flat(), "HEIF", quality=1),
    "HEIC, alpha": lambda: encoded(flat("RGBA").crop((0, 0, 5200, SIDE)), "HEIF", quality=1),
    "AVIF, flat": lambda: encoded(flat(), "AVIF", speed=10),
    "AVIF, noise": lambda: encoded(noise(*WIDE), "AVIF", speed=10, quality=30),
    "GIF, flat": lambda: encoded(flat("P"), "GIF"),
    "GIF, noise": lambda: encoded(noise(4000, 3000).convert("P"), "GIF"),
    "BMP, runs": run_length_bitmap,
    "TIFF, flat, LZW": lambda: encoded(flat(), "TIFF", compression="tiff_lzw"),
    "TIFF, flat, deflate, with alpha": lambda: encoded(flat("RGBA"), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, noise, JPEG": lambda: encoded(noise(*WIDE), "TIFF", compression="jpeg", quality=40),
    "TIFF, 1 bit, CCITT": lambda: encoded(flat("1"), "TIFF", compression="group4"),
    "HEIC, noise": lambda: encoded(noise(4000, 2000), "HEIF", quality=60),
}


def cpu_s(task: Callable[[], object]) -> tuple[float, str]:
    """Run a task; return its CPU seconds, and the problem that it raised or an empty string."""
    started = time.process_time()
    try:
        task()
    except TandemError as error:
        return time.process_time() - started, error.detail
    return time.process_time() - started, ""


def main(names: list[str]) -> None:
    face_pipeline()
    print("| photo | bytes | CPU s: faces | drawn as JPEG | as PNG |\n|---|---|---|---|---|", flush=True)
    slowest = 0.0
    for name, make in PHOTOS.items():
        if names and name not in names:
            continue
        photo = make()
        opened = Image.open(io.BytesIO(photo))
        answer = PhotoEmotions.model_construct(image=ImageSize(width=opened.width, height=opened.height), faces=[])
        find = partial(
            find_faces, _keep, photo, max_pixels=MAX_PIXELS, options=OPTIONS, crop=CROP, waiting_since=0.0
        )
        seconds, problem = cpu_s(find)
        slowest = max(slowest, seconds)
        drawn = [
            cpu_s(partial(draw_answer, _keep, photo, max_pixels=MAX_PIXELS, answer=answer, media_type=kind))[0]
            for kind in ("image/jpeg", "image/png")
            if not problem
        ]
        figures = " | ".join(f"{each:.1f}" for each in (seconds, *drawn))
        print(f"| {name} | {len(photo):,} | {figures} |{' ' + problem if problem else ''}", flush=True)
    sys.exit(slowest > MAX_CPU_S)


def _keep(_count: int) -> None:
    """Stand for the memory that a worker reserves."""


if __name__ == "__main__":
    main(sys.argv[1:])
