from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from skimage import data, transform

from service.faces import weights
from service.faces.face import LANDMARK_NAMES
from service.faces.pipeline import FaceFinder
from service.faces.weights import ONET, YUNET, Weights, check

# Read off the picture by eye: pixels of the 512 x 512 photo.
EYES_NOSE_MOUTH = np.array([[204, 101], [247, 103], [226, 127], [204, 141], [243, 142]])


@pytest.fixture(scope="module")
def finder():
    return FaceFinder()


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


def test_the_face_and_its_landmarks_are_where_they_are(finder, astronaut):
    (face,) = finder.find(astronaut)
    assert face.score > 0.8
    assert face.landmarks.shape == (len(LANDMARK_NAMES), 2)
    assert np.abs(face.landmarks - EYES_NOSE_MOUTH).max() < 8
    assert (face.box.x, face.box.y) == pytest.approx((178, 63), abs=12)
    assert (face.box.width, face.box.height) == pytest.approx((90, 113), abs=15)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_gives_the_same_face_turned(finder, astronaut, turns):
    (upright,) = finder.find(astronaut)
    (turned,) = finder.find(np.ascontiguousarray(np.rot90(astronaut, turns)))
    back = turned.landmarks
    for _ in range(turns):  # undo a quarter turn to the left: (x, y) came from (width - y, x)
        back = np.stack([512 - back[:, 1], back[:, 0]], axis=1)
    assert np.abs(back - upright.landmarks).max() < 4
    sides = sorted([turned.box.width, turned.box.height])
    assert sides == pytest.approx(sorted([upright.box.width, upright.box.height]), abs=4)


def test_faces_come_largest_first_and_lie_in_the_photo(finder, astronaut):
    small = (transform.resize(astronaut[:256, 100:356], (128, 128)) * 255).astype(np.uint8)
    photo = np.full((400, 700, 3), 90, np.uint8)
    photo[100:228, 20:148] = small
    photo[50:306, 250:506] = astronaut[:256, 100:356]
    photo[100:228, 550:678] = small
    faces = finder.find(photo)
    assert len(faces) == 3
    areas = [face.box.area for face in faces]
    assert areas == sorted(areas, reverse=True)
    assert 250 < faces[0].box.x < 506
    for face in faces:
        assert face.box.x >= 0
        assert face.box.x + face.box.width <= 700


def test_a_face_that_fills_a_tiny_photo_is_found(finder, astronaut):
    tiny = (transform.resize(astronaut[70:182, 168:280], (48, 48), anti_aliasing=True) * 255).astype(np.uint8)
    (face,) = finder.find(tiny)
    assert face.box.width > 24


def test_a_small_face_in_a_large_photo_is_found(finder, astronaut):
    photo = np.full((2000, 3000, 3), 128, np.uint8)
    photo[900:1412, 1400:1912] = astronaut
    (face,) = finder.find(photo)
    assert np.abs(face.landmarks - EYES_NOSE_MOUTH - [1400, 900]).max() < 10


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 4), (480, 640)])
def test_a_photo_without_a_face_has_none(finder, shape):
    assert finder.find(np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)) == []
    assert finder.find(np.zeros((*shape, 3), np.uint8)) == []


def test_a_cat_is_no_face(finder):
    assert finder.find(data.chelsea()) == []


def test_the_threshold_is_kept(finder, astronaut):
    assert finder.find(astronaut, threshold=0.999) == []


def test_one_finder_serves_many_threads(finder, astronaut):
    (expected,) = finder.find(astronaut)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(finder.find, [astronaut] * 32))
    assert all(np.array_equal(found[0].landmarks, expected.landmarks) for found in results)


@pytest.mark.parametrize("network", [YUNET, ONET])
def test_the_vendored_networks_are_the_ones_that_were_vendored(network):
    assert check(network)


def test_another_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "onet.onnx").write_bytes(b"something else")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"onet\.onnx has sha256 .*; the vendored file has abc"):
        check(Weights("onet.onnx", "abc"))
