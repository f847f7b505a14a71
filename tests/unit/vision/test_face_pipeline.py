import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from photos import encoded, oriented
from PIL import Image
from skimage import data, transform
from tritonclient.grpc import model_config_pb2

from service.errors import UnreadablePhoto
from service.inference.model_spec import ModelSpec
from service.vision import weights
from service.vision.alignment import crop_faces
from service.vision.decoding import decode_photo, open_photo
from service.vision.face import LANDMARK_NAMES
from service.vision.face_pipeline import FacePipeline
from service.vision.weights import ONET, YUNET, Weights, read_weights
from service.workers.tasks import DETAIL

MODEL = Path(__file__).parents[3] / "model_repository" / "tandem"

# Read off the picture by eye: pixels of the 512 x 512 photo.
EYES_NOSE_MOUTH = np.array([[204, 101], [247, 103], [226, 127], [204, 141], [243, 142]])


@pytest.fixture(scope="module")
def finder():
    return FacePipeline()


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


def test_the_face_and_its_landmarks_are_where_they_are(finder, astronaut):
    (face,) = finder.find_faces(astronaut)
    assert face.score > 0.8
    assert face.landmarks.shape == (len(LANDMARK_NAMES), 2)
    assert np.abs(face.landmarks - EYES_NOSE_MOUTH).max() < 8
    assert (face.box.x, face.box.y) == pytest.approx((178, 63), abs=12)
    assert (face.box.width, face.box.height) == pytest.approx((90, 113), abs=15)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_gives_the_same_face_turned(finder, astronaut, turns):
    (upright,) = finder.find_faces(astronaut)
    (turned,) = finder.find_faces(np.ascontiguousarray(np.rot90(astronaut, turns)))
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
    faces = finder.find_faces(photo)
    assert len(faces) == 3
    areas = [face.box.area for face in faces]
    assert areas == sorted(areas, reverse=True)
    assert 250 < faces[0].box.x < 506
    for face in faces:
        assert face.box.x >= 0
        assert face.box.x + face.box.width <= 700


def test_a_face_that_fills_a_tiny_photo_is_found(finder, astronaut):
    tiny = (transform.resize(astronaut[70:182, 168:280], (48, 48), anti_aliasing=True) * 255).astype(np.uint8)
    (face,) = finder.find_faces(tiny)
    assert face.box.width > 24


def test_a_small_face_in_a_large_photo_is_found(finder, astronaut):
    photo = np.full((2000, 3000, 3), 128, np.uint8)
    photo[900:1412, 1400:1912] = astronaut
    (face,) = finder.find_faces(photo)
    assert np.abs(face.landmarks - EYES_NOSE_MOUTH - [1400, 900]).max() < 10


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 4), (480, 640)])
def test_a_photo_without_a_face_has_none(finder, shape):
    assert finder.find_faces(np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)) == []
    assert finder.find_faces(np.zeros((*shape, 3), np.uint8)) == []


def test_a_cat_is_no_face(finder):
    assert finder.find_faces(data.chelsea()) == []


def test_the_threshold_is_kept(finder, astronaut):
    assert finder.find_faces(astronaut, threshold=0.999) == []


def test_one_finder_serves_many_threads(finder, astronaut):
    (expected,) = finder.find_faces(astronaut)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(finder.find_faces, [astronaut] * 32))
    assert all(np.array_equal(found[0].landmarks, expected.landmarks) for found in results)


@pytest.mark.parametrize("network", [YUNET, ONET])
def test_the_vendored_networks_are_the_ones_that_were_vendored(network):
    assert read_weights(network)


def test_another_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "onet.onnx").write_bytes(b"something else")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"onet\.onnx has sha256 .*; the vendored file has abc"):
        read_weights(Weights("onet.onnx", "abc"))


def large_photo(face_side, size=(2603, 1901)):
    """A photo of nearly 5 Mpx with the astronaut's face about ``face_side`` pixels wide, and sensor noise."""
    scale = face_side / 90
    person = Image.fromarray(data.astronaut()).crop((100, 0, 356, 289))
    ground = Image.new("RGB", size, (96, 110, 120))
    ground.paste(person.resize((round(256 * scale), round(289 * scale)), Image.Resampling.LANCZOS), (700, 301))
    noise = np.random.default_rng(0).normal(0, 5, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(ground) + noise).clip(0, 255).astype(np.uint8))


def decode_and_find(finder, raw, **options):
    with open_photo(raw, max_pixels=50_000_000) as photo:
        return finder.decode_and_find(photo, min_box_side=DETAIL * 48, **options)


def test_large_faces_of_a_large_photo_are_found_in_it_reduced(finder):
    photo, stages = large_photo(270), []
    sighting = decode_and_find(finder, encoded(photo, quality=95), end_stage=stages.append)
    (face,) = sighting.faces
    (exact,) = finder.find_faces(np.asarray(photo))
    assert (sighting.size, sighting.divisor, sighting.pixels.shape) == ((1901, 2603), 2, (951, 1302, 3))
    assert stages == ["decode", "detect", "landmarks"]
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width
    for name in ("x", "y", "width", "height"):
        assert getattr(face.box, name) == pytest.approx(getattr(exact.box, name), abs=0.03 * exact.box.width)


def test_a_face_too_small_for_that_is_read_from_the_whole_photo(finder):
    photo, stages = large_photo(150), []
    raw = encoded(photo, quality=95)
    sighting = decode_and_find(finder, raw, end_stage=stages.append)
    (face,) = sighting.faces
    (exact,) = finder.find_faces(decode_photo(raw, max_pixels=50_000_000))
    assert (sighting.size, sighting.divisor, sighting.pixels.shape) == ((1901, 2603), 1, (1901, 2603, 3))
    assert stages == ["decode", "detect", "landmarks", "decode", "landmarks"]
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_photo_is_found_in_as_its_exif_turns_it(finder, orientation):
    photo = large_photo(270)
    (exact,) = finder.find_faces(np.asarray(photo))
    sighting = decode_and_find(finder, oriented(photo, orientation))
    (face,) = sighting.faces
    assert (sighting.size, sighting.divisor) == ((1901, 2603), 2)
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


def test_a_large_photo_that_lies_is_turned_as_a_whole_one_is(finder):
    photo = large_photo(270).transpose(Image.Transpose.ROTATE_90)
    sighting = decode_and_find(finder, encoded(photo, quality=95))
    (face,) = sighting.faces
    (exact,) = finder.find_faces(np.asarray(photo))
    assert sighting.divisor == 2
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


def test_a_box_at_the_edge_of_a_reduced_photo_stays_in_the_photo(finder):
    photo = Image.new("RGB", (2603, 1901), (96, 110, 120))
    photo.paste(large_photo(270), (1440, 0))  # its right edge goes through the face
    sighting = decode_and_find(finder, encoded(photo, quality=95))
    (face,) = sighting.faces
    assert sighting.divisor == 2
    assert 2600 < face.box.x + face.box.width <= 2603


def test_a_large_photo_without_a_face_is_not_decoded_anew(finder):
    sighting = decode_and_find(finder, encoded(Image.new("RGB", (2600, 1900), "grey")))
    assert (sighting.faces, sighting.divisor) == ([], 2)


def test_what_cannot_be_reduced_is_found_in_as_it_is(finder, astronaut):
    sighting = decode_and_find(finder, encoded(large_photo(270), "WEBP"))
    assert (len(sighting.faces), sighting.divisor) == (1, 1)
    sighting = decode_and_find(finder, encoded(Image.fromarray(astronaut)))
    assert (len(sighting.faces), sighting.divisor) == (1, 1)


def test_a_large_broken_photo_is_unreadable(finder):
    raw = encoded(large_photo(270))
    with pytest.raises(UnreadablePhoto, match="the JPEG photo cannot be decoded: image file is truncated"):
        decode_and_find(finder, raw[: len(raw) // 2])


@pytest.fixture(scope="module")
def contract():
    config = text_format.Parse((MODEL / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return ModelSpec.from_config(config, "1")


@pytest.fixture(scope="module")
def network():
    with warnings.catch_warnings():  # TorchScript is what Triton's backend takes, deprecated or not
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        return torch.jit.load(MODEL / "1" / "model.pt").eval()


@pytest.mark.parametrize("face_side", [200, 270, 400])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_reduced_photo_gets_the_labels_of_the_whole_one(finder, contract, network, face_side, mirrored):
    photo = large_photo(face_side)
    raw = encoded(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else photo, quality=90)
    sighting = decode_and_find(finder, raw)
    assert sighting.divisor == 2
    whole = decode_photo(raw, max_pixels=50_000_000)
    cut = partial(crop_faces, template=contract.alignment_template, size=contract.crop_size)
    crops = [
        cut(whole, finder.find_faces(whole)),
        cut(sighting.pixels, sighting.faces, divisor=sighting.divisor),
        cut(whole, sighting.faces),
    ]
    with torch.inference_mode():
        expected, *reduced = (network(torch.from_numpy(crop)).numpy()[0] for crop in crops)
    for probabilities in reduced:
        assert probabilities.argmax() == expected.argmax()
        assert np.abs(probabilities - expected).max() < 0.1
    assert np.abs(crops[1].astype(int) - crops[2]).mean() < 5  # grey levels, the landmarks being the same
