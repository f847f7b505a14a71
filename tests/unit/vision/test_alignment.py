import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.vision.alignment import (
    crop_boxes,
    crop_faces,
    invert_transform,
    similarity_transform,
    transform_points,
    warp,
)
from service.vision.face import Box, Face

TEMPLATE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


@given(
    angle=st.floats(-3, 3),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_recovers_a_similarity(angle, scale, shift):
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    true = np.column_stack([rotation, shift])
    found = similarity_transform(TEMPLATE * 48, transform_points(true, TEMPLATE * 48))
    assert np.allclose(found, true, atol=1e-6 * max(1, scale) * 500)


@given(st.integers(0, 2**32 - 1))
def test_is_the_least_squares_fit_among_similarities(seed):
    random = np.random.default_rng(seed)
    source, target = random.normal(size=(5, 2)) * 20, random.normal(size=(5, 2)) * 20
    best = similarity_transform(source, target)
    error = ((transform_points(best, source) - target) ** 2).sum()
    a, b, x, y = best[0, 0], best[1, 0], best[0, 2], best[1, 2]
    for da, db, dx, dy in random.normal(size=(20, 4)) * 0.05:
        other = np.array([[a + da, -(b + db), x + dx], [b + db, a + da, y + dy]])
        assert ((transform_points(other, source) - target) ** 2).sum() >= error - 1e-9


def test_equal_points_have_no_transform():
    with pytest.raises(ValueError, match="5 source points are equal"):
        similarity_transform(np.ones((5, 2)), TEMPLATE)


def test_inverts_a_transform():
    matrix = np.array([[0.5, -0.2, 3], [0.2, 0.5, -7]])
    points = np.array([[1.0, 2], [30, 40]])
    assert np.allclose(transform_points(invert_transform(matrix), transform_points(matrix, points)), points)


def test_a_translation_is_a_slice():
    photo = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    assert np.array_equal(warp(photo, np.array([[1.0, 0, -5], [0, 1, -7]]), (20, 30)), photo[7:27, 5:35])


def test_shrinking_does_not_alias():
    stripes = np.tile(np.array([[0, 255]], np.uint8), (400, 200))  # black and white columns
    small = warp(stripes, np.array([[0.1, 0, 0], [0, 0.1, 0]]), (40, 40))
    assert small.std() < 3
    assert abs(small.mean() - 127.5) < 2


def test_shrinking_keeps_positions():
    photo = np.zeros((480, 480), np.uint8)
    cv2.circle(photo, (312, 168), 24, 255, -1)
    small = warp(photo, np.array([[0.1, 0, -0.45], [0, 0.1, -0.45]]), (48, 48)).astype(float)  # pixel centers
    y, x = np.indices(small.shape)
    center = (x * small).sum() / small.sum(), (y * small).sum() / small.sum()
    assert center == pytest.approx((30.75, 16.35), abs=0.15)


@given(st.floats(-400, 900), st.floats(-400, 900), st.floats(0.02, 8), st.floats(-3.2, 3.2))
def test_crops_anywhere_replicate_the_border(x, y, scale, angle):
    photo = np.full((60, 90, 3), 77, np.uint8)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    assert (warp(photo, np.array([[c, -s, x], [s, c, y]]), (48, 48)) == 77).all()


def test_crops_are_gray_with_the_landmarks_on_the_template():
    photo = np.zeros((300, 300, 3), np.uint8)
    landmarks = np.array([[100, 100], [160, 110], [128, 140], [98, 165], [150, 172]], np.float32)
    for x, y in landmarks:
        cv2.circle(photo, (int(x), int(y)), 3, (255, 255, 255), -1)
    fitted = similarity_transform(landmarks, TEMPLATE * 48)
    face = Face(Box(80, 80, 100, 120), 0.9, landmarks)
    crops = crop_faces(photo, [face, face], template=TEMPLATE, size=(48, 48))
    assert crops.shape == (2, 1, 48, 48)
    assert crops.dtype == np.uint8
    for x, y in transform_points(fitted, landmarks):
        assert crops[0, 0, round(y), round(x)] > 120
    assert crops[0].mean() < 30


@pytest.mark.parametrize("angle", [0, 30, 90, 180])
@pytest.mark.parametrize("divisor", [1, 2])
def test_crops_by_the_box_are_upright_and_have_the_box_where_it_belongs(angle: int, divisor: int) -> None:
    """A face of 120 by 150 pixels, rotated about (300, 300); the detector's box is upright all the same."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotation = np.array([[c, -s], [s, c]])
    # A bright spot between eyes and mouth, and one at the middle of the chin.
    photo = np.zeros((600 // divisor, 600 // divisor, 3), np.uint8)
    for point in ([0, 0], [0, 70]):
        x, y = (rotation @ point + 300) / divisor
        cv2.circle(photo, (round(x), round(y)), 6 // divisor, (255, 255, 255), -1)
    landmarks = (rotation @ ((TEMPLATE - TEMPLATE.mean(axis=0)) * 140).T).T + 300
    width, height = (150, 120) if angle == 90 else (120, 150)
    box = Box(300 - width / 2, 300 - height / 2, width, height)
    crops = crop_boxes(
        photo,
        [Face(box, 0.9, landmarks.astype(np.float32))],
        template=TEMPLATE,
        box_template=[0.1, 0.0, 0.9, 1.0],
        size=(48, 48),
        divisor=divisor,
    )
    assert crops.shape == (1, 1, 48, 48)
    length = np.cos(np.radians(angle)) ** 2 * height + np.sin(np.radians(angle)) ** 2 * width
    rows, columns = np.nonzero(crops[0, 0] > 100)
    assert abs(columns.mean() - 24) < 1.5
    assert abs(rows[rows < 36].mean() - 24) < 1.5
    assert abs(rows[rows >= 36].mean() - (24 + 70 * 48 / length)) < 1.5


def test_no_faces_give_no_crops():
    assert crop_faces(np.zeros((9, 9, 3), np.uint8), [], template=TEMPLATE, size=(48, 48)).shape == (0, 1, 48, 48)


def test_a_crop_in_color_is_the_gray_one_once_its_colors_are_weighed() -> None:
    photo = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    face = Face(Box(30, 20, 50, 50), 0.9, np.float32([[40, 35], [65, 36], [52, 48], [43, 60], [62, 61]]))
    cuts = [crop_faces(photo, [face], template=TEMPLATE, size=(56, 64), channels=channels) for channels in (1, 3)]
    gray, color = (each[0].astype(float) for each in cuts)
    assert (gray.shape, color.shape) == ((1, 56, 64), (3, 56, 64))
    assert np.abs(np.tensordot([0.299, 0.587, 0.114], color, 1) - gray[0]).max() < 1
