import numpy as np
import pytest
from skimage import data

from training.occlusion.drawing import FaceFrame, Painter
from training.occlusion.kinds import HARMLESS, HIDING, MOUTH

LANDMARKS = np.array([(204, 101), (247, 103), (226, 124), (208, 141), (242, 142)], np.float64)
ASTRONAUT = data.astronaut()


@pytest.fixture
def painter() -> Painter:
    return Painter(np.random.default_rng(3), [data.chelsea(), data.coffee()])


@pytest.mark.parametrize("kind", HIDING)
def test_what_hides_covers_an_eye_or_the_mouth(painter: Painter, kind: str) -> None:
    shares = [painter.draw(ASTRONAUT, LANDMARKS, HIDING[kind])[1] for _ in range(8)]
    assert max(shares) > 0.6


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_harmless_leaves_them(painter: Painter, kind: str) -> None:
    shares = [painter.draw(ASTRONAUT, LANDMARKS, HARMLESS[kind])[1] for _ in range(8)]
    assert np.median(shares) < 0.15


@pytest.mark.parametrize("kind", ["mask", "hand over an eye", "scarf", "sunglasses"])
def test_draws_only_near_the_face_and_leaves_the_photo(painter: Painter, kind: str) -> None:
    photo = ASTRONAUT.copy()
    drawn, _ = painter.draw(photo, LANDMARKS, HIDING[kind])
    assert (photo == ASTRONAUT).all()
    changed = np.argwhere((drawn != photo).any(axis=2))
    assert len(changed) > 300
    far = 5 * np.linalg.norm(LANDMARKS[1] - LANDMARKS[0])
    assert np.abs(changed - LANDMARKS.mean(axis=0)[::-1]).max() < far


@pytest.mark.parametrize("turn", [0, 40, 180])
def test_the_frame_follows_the_face(turn: float) -> None:
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = LANDMARKS @ rotation.T
    frame = FaceFrame.of(landmarks)
    placed = frame.place([(-0.5, 0), (0.5, 0), (0, MOUTH)])
    np.testing.assert_allclose(placed, [landmarks[0], landmarks[1], landmarks[3:].mean(axis=0)], atol=1e-6)
    assert frame.unit == pytest.approx(np.linalg.norm(LANDMARKS[1] - LANDMARKS[0]))


def test_a_face_without_size_is_drawn_over_without_an_error(painter: Painter) -> None:
    drawn, share = painter.draw(ASTRONAUT, np.full((5, 2), 50.0), HIDING["mask"])
    assert drawn.shape == ASTRONAUT.shape
    assert 0 <= share <= 1
