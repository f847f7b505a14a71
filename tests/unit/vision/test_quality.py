import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from skimage import data

from service.vision.alignment import crop_faces
from service.vision.face import Box, Face
from service.vision.face_pipeline import FacePipeline
from service.vision.quality import MIN_SIZE, brightness, is_ambiguous, measure_quality, pose, sharpness

# Eyes, nose and corners of the mouth of a head that faces the camera: x, y and depth, relative to the distance
# between the eyes.
HEAD = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0, 0.5], [-0.4, 0.5, 0], [0.4, 0.5, 0]])
PATTERN = np.random.default_rng(0).integers(40, 220, (48, 48)).astype(np.uint8)


def project(
    *, yaw: float = 0, roll: float = 0, scale: float = 60, shift: tuple[float, float] = (100, 100)
) -> np.ndarray:
    """Project the head's landmarks into an image, from far away."""
    y, r = math.radians(yaw), math.radians(roll)
    yaw_rotation = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    roll_rotation = np.array([[math.cos(r), -math.sin(r)], [math.sin(r), math.cos(r)]])
    return (((HEAD @ yaw_rotation.T)[:, :2] @ roll_rotation.T) * scale + shift).astype(np.float32)


def face(points: np.ndarray, *, size: float = 90, score: float = 0.9) -> Face:
    return Face(Box(50, 50, size, size * 1.2), score, points)


@given(st.floats(-80, 80), st.floats(-179, 179), st.floats(5, 2000), st.tuples(*[st.floats(-2000, 2000)] * 2))
def test_estimates_pose_at_any_scale_and_position(
    yaw: float, roll: float, scale: float, shift: tuple[float, float]
) -> None:
    assert pose(project(yaw=yaw, roll=roll, scale=scale, shift=shift)) == pytest.approx((roll, yaw), abs=1.5)


@given(st.floats(-80, 80), st.floats(-80, 80))
def test_mirroring_negates_roll_and_yaw(yaw: float, roll: float) -> None:
    points = project(yaw=yaw, roll=roll)
    mirrored = (points * (-1, 1) + (300, 0))[[1, 0, 2, 4, 3]]
    assert pose(mirrored) == pytest.approx(tuple(-angle for angle in pose(points)), abs=1e-3)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=10, max_size=10))
def test_pose_of_any_landmarks_is_in_range(numbers: list[float]) -> None:
    roll, yaw = pose(np.array(numbers, np.float32).reshape(5, 2))
    assert -180 <= roll <= 180
    assert -90 <= yaw <= 90


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1), st.integers(0, 60))
def test_sharpness_is_independent_of_contrast(seed: int, contrast: float, shift: int) -> None:
    crop = np.random.default_rng(seed).integers(0, 190, (48, 48)).astype(np.uint8)
    paler = (crop * contrast + shift).astype(np.uint8)
    assert sharpness(paler) == pytest.approx(sharpness(crop), rel=0.1)
    assert 0 <= sharpness(crop) <= 64


def test_sharpness_and_brightness_of_a_uniform_crop() -> None:
    for gray in (0, 128, 255):
        flat = np.full((48, 48), gray, np.uint8)
        assert sharpness(flat) == 0
        assert brightness(flat) == gray / 255


def test_a_good_face_is_reliable() -> None:
    quality = measure_quality(face(project(yaw=10, roll=-20)), PATTERN, (300, 300))
    assert quality.unreliable_because == ()
    assert quality.size == 90
    assert (quality.roll, quality.yaw) == pytest.approx((-20, 10), abs=0.1)


@pytest.mark.parametrize(
    ("subject", "crop", "reason"),
    [
        (face(project(), size=MIN_SIZE - 0.1), PATTERN, "small"),
        (face(project(yaw=50)), PATTERN, "turned"),
        (face(project(yaw=-50)), PATTERN, "turned"),
        (face(project(shift=(10, 100))), PATTERN, "cut_off"),
        (face(project(shift=(100, 290))), PATTERN, "cut_off"),
        (face(project()), np.tile(np.linspace(60, 200, 48).astype(np.uint8), (48, 1)), "blurred"),
        (face(project()), PATTERN // 10, "dark"),
        (face(project()), 255 - PATTERN // 15, "bright"),
        (face(project(), score=0.69), PATTERN, "uncertain"),
    ],
)
def test_each_reason(subject: Face, crop: np.ndarray, reason: str) -> None:
    assert measure_quality(subject, crop, (300, 300)).unreliable_because == (reason,)


TEMPLATE = [[0.302, 0.388], [0.678, 0.388], [0.49, 0.601], [0.336, 0.782], [0.664, 0.782]]
MASK = [(178, 112), (226, 118), (270, 112), (262, 165), (226, 180), (186, 165)]


def hide(photo: Image.Image, how: str) -> None:  # noqa: PLR0912 - a list of drawings
    """Draw over the astronaut's face: eyes at (204, 101) and (247, 103), mouth at (224, 141)."""
    draw = ImageDraw.Draw(photo)
    skin, dark = (205, 160, 140), (170, 125, 105)
    match how:
        case "mask":
            draw.polygon(MASK, (170, 200, 225))
        case "dark mask":
            draw.polygon(MASK, (25, 25, 30))
        case "striped scarf":
            draw.rectangle((150, 128, 300, 230), (180, 60, 50))
            for left in range(100, 300, 14):
                draw.line((left, 230, left + 100, 128), (230, 220, 200), 6)
        case "hand over the mouth":
            for top in range(126, 166, 10):
                draw.rounded_rectangle((180, top, 262, top + 9), 4, skin, dark)
        case "hand over an eye":
            draw.ellipse((182, 80, 226, 128), skin)
        case "left half":
            draw.rectangle((170, 50, 226, 185), (128, 128, 128))
        case "lower half":
            draw.rectangle((170, 122, 280, 185), "black")
        case "upper half":
            draw.rectangle((170, 50, 280, 118), (200, 200, 200))
        case "upper half of noise":
            noise = np.random.default_rng(1).integers(0, 256, (68, 110, 3)).astype(np.uint8)
            photo.paste(Image.fromarray(noise), (170, 50))
        case "sunglasses":
            draw.ellipse((186, 88, 222, 118), (20, 20, 22))
            draw.ellipse((230, 90, 266, 120), (20, 20, 22))
            draw.line((218, 100, 234, 101), (20, 20, 22), 4)
        case "bar over the eyes":
            draw.rectangle((178, 90, 272, 113), "black")
        case "coarse eyes":
            eyes = (176, 84, 274, 118)
            photo.paste(photo.crop(eyes).resize((7, 3)).resize((98, 34), Image.Resampling.NEAREST), eyes[:2])
        case "hat":
            draw.rectangle((150, 0, 300, 62), (60, 40, 120))
        case "glasses":
            draw.ellipse((186, 88, 222, 116), outline=(40, 40, 40), width=2)
            draw.ellipse((230, 90, 266, 118), outline=(40, 40, 40), width=2)
        case "plaster on the cheek":
            draw.rectangle((250, 126, 268, 140), (225, 190, 160))


HIDDEN = (
    *("mask", "dark mask", "striped scarf", "hand over the mouth", "hand over an eye"),
    *(
        "left half",
        "lower half",
        "upper half",
        "upper half of noise",
        "sunglasses",
        "bar over the eyes",
        "coarse eyes",
    ),
)


@pytest.fixture(scope="module")
def pipeline() -> FacePipeline:
    return FacePipeline()


@pytest.mark.parametrize("how", [*HIDDEN, "nothing", "hat", "glasses", "plaster on the cheek"])
def test_what_is_hidden_is_doubted(pipeline: FacePipeline, how: str) -> None:
    photo = Image.fromarray(data.astronaut())
    hide(photo, how)
    pixels = np.asarray(photo)
    subject = pipeline.find_faces(pixels)[0]
    assert 170 < subject.box.x + subject.box.width / 2 < 280
    crop = crop_faces(pixels, [subject], template=TEMPLATE, size=(48, 48))[0, 0]
    reasons = measure_quality(subject, crop, (512, 512)).unreliable_because
    assert ("occluded" in reasons) == (how in HIDDEN)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.48, 0.1, 0.42], True),
        ([0.54, 0.46], True),
        ([0.56, 0.44], False),
        ([0.9, 0.06, 0.04], False),
        ([1.0], False),
    ],
)
def test_close_emotions_are_ambiguous(probabilities: list[float], expected: bool) -> None:
    assert is_ambiguous(probabilities) is expected
