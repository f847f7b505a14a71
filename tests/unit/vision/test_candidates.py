import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.vision.alignment import invert_transform, tilt_transform, transform_points
from service.vision.candidates import Candidates, best_boxes, rotate_back


def chosen(*boxes: tuple[float, float, float, float, float]) -> list[int]:
    """Indices of the chosen boxes, each given as x, y, width, height, score."""
    table = np.array(boxes, np.float32)
    return best_boxes(table[:, :4], table[:, 4]).tolist()


def test_a_face_wins_over_its_halves() -> None:
    assert chosen((0, 0, 100, 45, 0.74), (0, 55, 100, 45, 0.66), (0, 0, 100, 100, 0.9)) == [2]
    assert chosen((0, 0, 60, 60, 0.74), (0, 0, 120, 120, 0.7)) == [1]  # the larger may be a little weaker


def test_a_face_wins_over_a_weak_box_around_it_and_its_neighbor() -> None:
    assert sorted(chosen((0, 0, 50, 50, 0.9), (60, 0, 50, 50, 0.92), (0, -20, 110, 90, 0.65))) == [0, 1]


def test_neighbors_that_touch_stay() -> None:
    assert sorted(chosen((0, 0, 100, 100, 0.9), (80, 0, 100, 100, 0.8))) == [0, 1]
    assert best_boxes(np.empty((0, 4), np.float32), np.empty(0)).tolist() == []


coordinates = st.floats(0, 100, width=32)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8), st.integers(0, 3))
def test_rotating_back_undoes_quarter_turns(points: list[tuple[float, float]], turns: int) -> None:
    height, width = 100, 120
    turned = np.array(points, np.float32)
    for _ in range(turns):  # counterclockwise: (x, y) becomes (y, width - x)
        turned = np.stack([turned[:, 1], width - turned[:, 0]], axis=1)
        height, width = width, height
    np.testing.assert_allclose(rotate_back(turned, turns, (height, width)), points, atol=1e-3)


def candidate(box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Candidates:
    one = np.ones(1, np.float32)
    return Candidates(box, one, landmarks, landmarks, one, one)


def test_boxes_of_a_turned_photo_keep_their_corners() -> None:
    turned = candidate(np.array([[10, 20, 30, 50]], np.float32), np.zeros((1, 5, 2), np.float32))
    (back,) = turned.turned_back(1, (200, 100)).boxes  # the upright photo is 200 wide and 100 high
    assert back.tolist() == [130, 10, 50, 30]


@given(st.integers(-180, 180), st.floats(0.2, 1))
def test_candidates_of_a_leaning_photo_come_back_to_their_place(degrees: int, scale: float) -> None:
    matrix, size = tilt_transform((400, 600), degrees, round(600 * scale))
    assert size == (round(400 * round(600 * scale) / 600), round(600 * scale))
    points = np.array([[(200, 150), (220, 150), (210, 160), (202, 170), (218, 170)]], np.float32)
    center = np.array([210, 158])
    x, y = transform_points(matrix, center)
    side = 40 * np.hypot(*matrix[0, :2])
    box = np.array([[x - side / 2, y - side / 2, side, side]], np.float32)
    back = candidate(box, transform_points(matrix, points).astype(np.float32)).moved(invert_transform(matrix))
    np.testing.assert_allclose(back.boxes, [[190, 138, 40, 40]], atol=0.01)
    np.testing.assert_allclose(back.landmarks, points, atol=0.01)
