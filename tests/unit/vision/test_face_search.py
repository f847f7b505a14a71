"""The search policy: each face once, whichever way up, however large, however dark."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from skimage import data

from service.vision.face import Face
from service.vision.face_pipeline import FacePipeline

FACE = (182.0, 66.0, 84.0, 108.0)
"""Box of the astronaut's face in pixels of the 512 x 512 photo: x, y, width, height."""

Pixels = NDArray[np.uint8]
BoxTuple = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def pipeline() -> FacePipeline:
    return FacePipeline()


def portrait(share: float, side: int) -> tuple[Image.Image, BoxTuple]:
    """Cut a square in which the face has a share of the height; return it and the box of the face in it."""
    x, y, width, height = FACE
    length = height / share
    left, top = max(0, x + width / 2 - length / 2), max(0, y + height / 2 - length / 2)
    photo = Image.fromarray(data.astronaut())
    cut = photo.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + length, top + length))
    scale = side / length
    return cut, ((x - left) * scale, (y - top) * scale, width * scale, height * scale)


def turned(photo: Image.Image, box: BoxTuple, turns: int) -> tuple[Pixels, BoxTuple]:
    """Turn a square photo and a box in it counterclockwise by quarter turns."""
    x, y, width, height = box
    for _ in range(turns):
        x, y, width, height = y, photo.width - x - width, height, width
    return np.ascontiguousarray(np.rot90(np.asarray(photo), turns)), (x, y, width, height)


def overlap(face: Face, box: BoxTuple) -> float:
    """Intersection over union."""
    x, y, width, height = box
    a = face.box
    shared = max(0.0, min(a.x + a.width, x + width) - max(a.x, x))
    shared *= max(0.0, min(a.y + a.height, y + height) - max(a.y, y))
    return shared / (a.area + width * height - shared)


def roll(face: Face) -> float:
    """Degrees from the horizontal of the line through the eyes."""
    across = face.landmarks[1] - face.landmarks[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def is_right(faces: list[Face], box: BoxTuple, turns: int = 0) -> bool:
    """Whether there is exactly one face, in its place and the right way up."""
    if len(faces) != 1 or overlap(faces[0], box) < 0.5:
        return False
    lean = (roll(faces[0]) + 90 * turns + 180) % 360 - 180
    return abs(lean) < 30


@pytest.mark.parametrize(
    ("share", "side", "turns"),
    [
        *product((0.3, 0.6, 0.85, 1.0), (200, 640, 1100), range(4)),
        *product((0.25, 0.67, 1.0), (2000, 3000), (0, 2)),
    ],
)
def test_finds_a_face_of_any_size_in_a_photo_of_any_size_and_turn(
    pipeline: FacePipeline, share: float, side: int, turns: int
) -> None:
    pixels, box = turned(*portrait(share, side), turns)
    assert is_right(pipeline.find_faces(pixels), box, turns)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 2, 0, 1), (3, 1, 1, 3)])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_finds_portraits_that_are_turned_differently(
    pipeline: FacePipeline, order: tuple[int, ...], share: float
) -> None:
    sheet = np.full((1200, 1200, 3), 255, np.uint8)
    boxes = []
    for index, turns in enumerate(order):
        cut, (x, y, width, height) = turned(*portrait(share, 600), turns)
        left, top = 600 * (index % 2), 600 * (index // 2)
        sheet[top : top + 600, left : left + 600] = cut
        boxes.append((x + left, y + top, width, height))
    faces = pipeline.find_faces(sheet)
    assert len(faces) == 4
    for box, turns in zip(boxes, order, strict=True):
        assert is_right([face for face in faces if overlap(face, box) > 0.1], box, turns)


@pytest.mark.parametrize("turns", range(4))
def test_takes_the_turn_of_most_faces_of_a_photo(pipeline: FacePipeline, turns: int) -> None:
    heads = [portrait(0.4, side)[0] for side in (300, 200, 150)]
    photo = Image.new("RGB", (800, 800), (96, 110, 120))
    for index, head in enumerate(heads * 2):
        photo.paste(head, (260 * (index % 3), 60 + 380 * (index // 3)))
    faces = pipeline.find_faces(np.ascontiguousarray(np.rot90(np.asarray(photo), turns)))
    assert len(faces) == 6
    for face in faces:
        assert abs((roll(face) + 90 * turns + 180) % 360 - 180) < 30


@pytest.mark.parametrize("side", [14, 18, 24, 40])
def test_finds_a_small_face(pipeline: FacePipeline, side: int) -> None:
    cut, (x, y, width, height) = portrait(0.3, round(side / 0.3))
    photo = Image.new("RGB", (640, 480), (96, 110, 120))
    photo.paste(cut, (300, 200))
    assert is_right(pipeline.find_faces(np.asarray(photo)), (x + 300, y + 200, width, height))


@pytest.mark.parametrize("light", [0.5, 0.2, 0.1, 0.05])
def test_finds_a_dark_face(pipeline: FacePipeline, light: float) -> None:
    cut, box = portrait(0.35, 480)
    assert is_right(pipeline.find_faces((np.asarray(cut) * light).astype(np.uint8)), box)


def test_finds_a_blurred_face(pipeline: FacePipeline) -> None:
    cut, box = portrait(0.35, 480)
    faces = pipeline.find_faces(np.asarray(cut.filter(ImageFilter.GaussianBlur(0.07 * box[2]))))
    assert is_right(faces, box)


@pytest.mark.parametrize("lean", range(-180, 180, 30))
def test_finds_a_face_that_leans_by_any_angle(pipeline: FacePipeline, lean: int) -> None:
    cut = portrait(0.3, 640)[0].rotate(-lean, Image.Resampling.BICUBIC, fillcolor=(96, 110, 120))
    (face,) = pipeline.find_faces(np.asarray(cut))
    assert abs((roll(face) - lean + 180) % 360 - 180) < 25


def test_finds_a_large_and_a_small_face_of_one_photo(pipeline: FacePipeline) -> None:
    photo = Image.new("RGB", (2400, 1800), (96, 110, 120))
    photo.paste(portrait(0.9, 1500)[0], (0, 0))
    photo.paste(portrait(0.3, 300)[0], (1900, 1300))
    large, small = pipeline.find_faces(np.asarray(photo))
    assert 1100 < large.box.height < 1600
    assert 70 < small.box.height < 130


def test_finds_each_face_of_a_blurred_crowd(pipeline: FacePipeline) -> None:
    head = portrait(0.5, 90)[0].filter(ImageFilter.GaussianBlur(2))
    crowd = Image.new("RGB", (900, 720))
    for x, y in product(range(0, 900, 90), range(0, 720, 90)):
        crowd.paste(head, (x, y))
    assert len(pipeline.find_faces(np.asarray(crowd))) >= 78  # of 80


def textures() -> list[Pixels]:
    """Draw 24 pictures without faces: noise of several scales, shapes, and wallpaper of dots and bars."""
    random = np.random.default_rng(0)
    pictures = []
    for index in range(8):
        coarse = random.integers(0, 255, (480 >> index % 4, 640 >> index % 4, 3)).astype(np.uint8)
        pictures.append(np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)))
    for _ in range(8):
        picture = Image.new("RGB", (640, 480), tuple(random.integers(0, 255, 3).tolist()))
        draw = ImageDraw.Draw(picture)
        for _ in range(60):
            x, y, size = random.integers(0, 640), random.integers(0, 480), random.integers(4, 70)
            shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
            shape((int(x), int(y), int(x + size), int(y + size)), fill=tuple(random.integers(0, 255, 3).tolist()))
        pictures.append(np.asarray(picture))
    for size in range(16, 80, 8):
        picture = Image.new("RGB", (640, 480), "white")
        draw = ImageDraw.Draw(picture)
        for x, y in product(range(0, 640, 2 * size), range(0, 480, 2 * size)):
            draw.ellipse((x, y, x + size // 2, y + size // 2), fill="black")
            draw.ellipse((x + size, y, x + size * 3 // 2, y + size // 2), fill="black")
            draw.rectangle((x + size // 3, y + size, x + size, y + size * 5 // 4), fill="black")
        pictures.append(np.asarray(picture))
    return pictures


def test_finds_no_faces_in_textures(pipeline: FacePipeline) -> None:
    assert [len(pipeline.find_faces(picture)) for picture in textures()] == [0] * 24


@pytest.mark.parametrize(
    "name", ["chelsea", "coffee", "rocket", "coins", "moon", "page", "brick", "grass", "gravel"]
)
def test_finds_no_faces_in_photos_without(pipeline: FacePipeline, name: str) -> None:
    picture = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    assert pipeline.find_faces(picture) == []


def test_the_threshold_decides_which_weak_faces_are_returned(pipeline: FacePipeline) -> None:
    photo = np.asarray(portrait(0.3, 640)[0])
    (face,) = pipeline.find_faces(photo)
    assert len(pipeline.find_faces(photo, threshold=face.score - 0.01)) == 1
    assert pipeline.find_faces(photo, threshold=face.score + 0.01) == []


def test_a_face_that_leans_is_found_where_nothing_else_is(
    pipeline: FacePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.new("RGB", (640, 480), (120, 120, 120))
    head = Image.fromarray(data.astronaut()).crop((140, 40, 300, 200)).resize((60, 60), Image.Resampling.BOX)
    photo.paste(head, (290, 210))
    photo = photo.rotate(50, Image.Resampling.BILINEAR, fillcolor=(120, 120, 120))
    pixels = np.asarray(photo.filter(ImageFilter.GaussianBlur(1.2)))
    (found,) = pipeline.find_faces(pixels)
    assert overlap(found, (305, 220, 30, 40)) > 0.3
    assert -65 < roll(found) < -35
    monkeypatch.setattr("service.vision.face_search.TILTS", (0,))
    assert pipeline.find_faces(pixels) == []
