"""The photos that the benchmarks send: JPEGs of three sizes with real faces, made from scikit-image's images."""

import io

import numpy as np
from PIL import Image
from skimage import data


def one_face() -> bytes:
    """640x480, one face of 90x113 pixels on a plain background; about 60 kB."""
    canvas = Image.new("RGB", (640, 480), (96, 110, 120))
    canvas.paste(Image.fromarray(data.astronaut()).crop((0, 0, 512, 480)), (64, 0))
    return _jpeg(canvas)


def six_faces() -> bytes:
    """1152x868, just under one megapixel, six faces of about 135x170 pixels."""
    head = Image.fromarray(data.astronaut()).crop((100, 0, 356, 289)).resize((384, 434), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (1152, 868))
    for index in range(6):
        canvas.paste(head, (index % 3 * 384, index // 3 * 434))
    return _jpeg(canvas)


def twelve_megapixels() -> bytes:
    """4000x3000, one face of 540x680 pixels, with sensor noise; about 5 MB, as from a phone."""
    person = Image.fromarray(data.astronaut()).resize((3072, 3072), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (4000, 3000), (96, 110, 120))
    canvas.paste(person, (464, 0))
    noise = np.random.default_rng(0).normal(0, 5, (3000, 4000, 1))
    return _jpeg(Image.fromarray((np.asarray(canvas) + noise).clip(0, 255).astype(np.uint8)))


WORKLOADS = {"one face": one_face, "six faces": six_faces, "12 Mpx": twelve_megapixels}
FACES = {"one face": 1, "six faces": 6, "12 Mpx": 1}
"""Number of faces that each answer must have."""


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
