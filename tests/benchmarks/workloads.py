"""The photos that the benchmarks send: real faces in JPEGs of three sizes, made from scikit-image's pictures."""

import io

import numpy as np
from PIL import Image
from skimage import data


def one_face() -> bytes:
    """640x480, a face of 90x113 pixels on a plain ground; about 60 kB."""
    ground = Image.new("RGB", (640, 480), (96, 110, 120))
    ground.paste(Image.fromarray(data.astronaut()).crop((0, 0, 512, 480)), (64, 0))
    return _jpeg(ground)


def six_faces() -> bytes:
    """1152x868, just under a megapixel, with six faces of about 135x170 pixels."""
    head = Image.fromarray(data.astronaut()).crop((100, 0, 356, 289)).resize((384, 434), Image.Resampling.BICUBIC)
    ground = Image.new("RGB", (1152, 868))
    for index in range(6):
        ground.paste(head, (index % 3 * 384, index // 3 * 434))
    return _jpeg(ground)


def twelve_megapixels() -> bytes:
    """4000x3000 with one face of 540x680 pixels and the noise of a sensor; about 5 MB, as from a phone."""
    person = Image.fromarray(data.astronaut()).resize((3072, 3072), Image.Resampling.BICUBIC)
    ground = Image.new("RGB", (4000, 3000), (96, 110, 120))
    ground.paste(person, (464, 0))
    noise = np.random.default_rng(0).normal(0, 5, (3000, 4000, 1))
    return _jpeg(Image.fromarray((np.asarray(ground) + noise).clip(0, 255).astype(np.uint8)))


WORKLOADS = {"one face": one_face, "six faces": six_faces, "12 Mpx": twelve_megapixels}
FACES = {"one face": 1, "six faces": 6, "12 Mpx": 1}
"""How many faces an answer must have."""


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
