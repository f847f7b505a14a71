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


def hide(draw: ImageDraw.ImageDraw, how: str) -> None:
    """Hide a part of the astronaut's face: eyes at (204, 101) and (247, 103), mouth at (224, 141)."""
    skin = (205, 160, 140)
    match how:
        case "mask":
            draw.polygon([(178, 112), (226, 118), (270, 112), (262, 165), (226, 180), (186, 165)], (170, 200, 225))
        case "dark mask":
            draw.polygon([(178, 112), (226, 118), (270, 112), (262, 165), (226, 180), (186, 165)], (25, 25, 30))
        case "hand over the mouth":
            for top in range(126, 166, 10):
                draw.rounded_rectangle((180, top, 262, top + 9), 4, skin, (170, 125, 105))
        case "hand over an eye":
            draw.ellipse((182, 80, 226, 128), skin)
        case "left half":
            draw.rectangle((170, 50, 226, 185), (128, 128, 128))
        case "lower half":
            draw.rectangle((170, 122, 280, 185), "black")
        case "upper half":
            draw.rectangle((170, 50, 280, 118), (200, 200, 200))


@pytest.mark.parametrize(
    "how",
    [
        "nothing",
        "mask",
        "dark mask",
        "hand over the mouth",
        "hand over an eye",
        "left half",
        "lower half",
        "upper half",
    ],
)
def test_what_is_hidden_is_doubted(how: str) -> None:
    pipeline = FacePipeline()
    photo = Image.fromarray(data.astronaut())
    landmarks = pipeline.find_faces(np.asarray(photo))[0].landmarks  # of the whole face
    hide(ImageDraw.Draw(photo), how)
    pixels = np.asarray(photo)
    subject = Face(Box(178, 63, 90, 113), 0.9, landmarks)
    crop = crop_faces(pixels, [subject], template=TEMPLATE, size=(48, 48))[0, 0]
    reasons = measure_quality(subject, crop, (512, 512)).unreliable_because
    assert reasons == (() if how == "nothing" else ("occluded",))


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
