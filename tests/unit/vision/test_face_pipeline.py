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

# Labeled by hand, in pixels of the 512 x 512 photo.
LANDMARKS = np.array([[204, 101], [247, 103], [226, 127], [204, 141], [243, 142]])


@pytest.fixture(scope="module")
def pipeline():
    return FacePipeline()


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


def test_finds_the_face_and_its_landmarks(pipeline, astronaut):
    (face,) = pipeline.find_faces(astronaut)
    assert face.score > 0.8
    assert face.landmarks.shape == (len(LANDMARK_NAMES), 2)
    assert np.abs(face.landmarks - LANDMARKS).max() < 8
    assert (face.box.x, face.box.y) == pytest.approx((178, 63), abs=12)
    assert (face.box.width, face.box.height) == pytest.approx((90, 113), abs=15)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_finds_the_same_face_in_a_rotated_photo(pipeline, astronaut, turns):
    (upright,) = pipeline.find_faces(astronaut)
    (rotated,) = pipeline.find_faces(np.ascontiguousarray(np.rot90(astronaut, turns)))
    back = rotated.landmarks
    for _ in range(turns):  # undo a counterclockwise quarter turn: (x, y) was (width - y, x)
        back = np.stack([512 - back[:, 1], back[:, 0]], axis=1)
    assert np.abs(back - upright.landmarks).max() < 4
    sides = sorted([rotated.box.width, rotated.box.height])
    assert sides == pytest.approx(sorted([upright.box.width, upright.box.height]), abs=4)


def test_sorts_faces_by_size_and_clips_them_to_the_photo(pipeline, astronaut):
    small = (transform.resize(astronaut[:256, 100:356], (128, 128)) * 255).astype(np.uint8)
    photo = np.full((400, 700, 3), 90, np.uint8)
    photo[100:228, 20:148] = small
    photo[50:306, 250:506] = astronaut[:256, 100:356]
    photo[100:228, 550:678] = small
    faces = pipeline.find_faces(photo)
    assert len(faces) == 3
    areas = [face.box.area for face in faces]
    assert areas == sorted(areas, reverse=True)
    assert 250 < faces[0].box.x < 506
    for face in faces:
        assert face.box.x >= 0
        assert face.box.x + face.box.width <= 700


def test_finds_a_face_that_fills_a_tiny_photo(pipeline, astronaut):
    tiny = (transform.resize(astronaut[70:182, 168:280], (48, 48), anti_aliasing=True) * 255).astype(np.uint8)
    (face,) = pipeline.find_faces(tiny)
    assert face.box.width > 24


def test_finds_a_small_face_in_a_large_photo(pipeline, astronaut):
    photo = np.full((2000, 3000, 3), 128, np.uint8)
    photo[900:1412, 1400:1912] = astronaut
    (face,) = pipeline.find_faces(photo)
    assert np.abs(face.landmarks - LANDMARKS - [1400, 900]).max() < 10


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 4), (480, 640)])
def test_finds_nothing_in_noise_and_black(pipeline, shape):
    assert pipeline.find_faces(np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)) == []
    assert pipeline.find_faces(np.zeros((*shape, 3), np.uint8)) == []


def test_rejects_a_cat(pipeline):
    assert pipeline.find_faces(data.chelsea()) == []


def test_respects_the_threshold(pipeline, astronaut):
    assert pipeline.find_faces(astronaut, threshold=0.999) == []


def test_can_be_shared_by_threads(pipeline, astronaut):
    (expected,) = pipeline.find_faces(astronaut)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(pipeline.find_faces, [astronaut] * 32))
    assert all(np.array_equal(found[0].landmarks, expected.landmarks) for found in results)


@pytest.mark.parametrize("network", [YUNET, ONET])
def test_vendored_networks_have_their_checksums(network):
    assert read_weights(network)


def test_rejects_a_file_with_another_checksum(monkeypatch, tmp_path):
    (tmp_path / "onet.onnx").write_bytes(b"something else")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"onet\.onnx has sha256 .*, not abc"):
        read_weights(Weights("onet.onnx", "abc"))


def large_photo(face_side, size=(2603, 1901)):
    """Make a noisy photo of nearly 5 Mpx in which the astronaut's face is about ``face_side`` pixels wide."""
    scale = face_side / 90
    person = Image.fromarray(data.astronaut()).crop((100, 0, 356, 289))
    ground = Image.new("RGB", size, (96, 110, 120))
    ground.paste(person.resize((round(256 * scale), round(289 * scale)), Image.Resampling.LANCZOS), (700, 301))
    noise = np.random.default_rng(0).normal(0, 5, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(ground) + noise).clip(0, 255).astype(np.uint8))


def decode_and_find(pipeline, photo_bytes, **options):
    with open_photo(photo_bytes, max_pixels=50_000_000) as photo:
        return pipeline.decode_and_find(photo, min_box_side=DETAIL * 48, **options)


def test_finds_large_faces_in_a_reduced_photo(pipeline):
    photo, stages = large_photo(270), []
    result = decode_and_find(pipeline, encoded(photo, quality=95), end_stage=stages.append)
    (face,) = result.faces
    (exact,) = pipeline.find_faces(np.asarray(photo))
    assert (result.size, result.divisor, result.pixels.shape) == ((1901, 2603), 2, (951, 1302, 3))
    assert stages == ["decode", "detect", "landmarks"]
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width
    for name in ("x", "y", "width", "height"):
        assert getattr(face.box, name) == pytest.approx(getattr(exact.box, name), abs=0.03 * exact.box.width)


def test_refines_small_faces_in_the_full_photo(pipeline):
    photo, stages = large_photo(150), []
    photo_bytes = encoded(photo, quality=95)
    result = decode_and_find(pipeline, photo_bytes, end_stage=stages.append)
    (face,) = result.faces
    (exact,) = pipeline.find_faces(decode_photo(photo_bytes, max_pixels=50_000_000))
    assert (result.size, result.divisor, result.pixels.shape) == ((1901, 2603), 1, (1901, 2603, 3))
    assert stages == ["decode", "detect", "landmarks", "decode", "landmarks"]
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_exif_orientation_to_a_reduced_photo(pipeline, orientation):
    photo = large_photo(270)
    (exact,) = pipeline.find_faces(np.asarray(photo))
    result = decode_and_find(pipeline, oriented(photo, orientation))
    (face,) = result.faces
    assert (result.size, result.divisor) == ((1901, 2603), 2)
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


def test_finds_faces_in_a_rotated_large_photo(pipeline):
    photo = large_photo(270).transpose(Image.Transpose.ROTATE_90)
    result = decode_and_find(pipeline, encoded(photo, quality=95))
    (face,) = result.faces
    (exact,) = pipeline.find_faces(np.asarray(photo))
    assert result.divisor == 2
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


def test_clips_boxes_of_a_reduced_photo_to_the_full_one(pipeline):
    photo = Image.new("RGB", (2603, 1901), (96, 110, 120))
    photo.paste(large_photo(270), (1440, 0))  # the right edge cuts through the face
    result = decode_and_find(pipeline, encoded(photo, quality=95))
    (face,) = result.faces
    assert result.divisor == 2
    assert 2600 < face.box.x + face.box.width <= 2603


def test_decodes_a_large_photo_without_faces_once(pipeline):
    result = decode_and_find(pipeline, encoded(Image.new("RGB", (2600, 1900), "gray")))
    assert (result.faces, result.divisor) == ([], 2)


@pytest.mark.parametrize(("face_side", "divisor"), [(270, 2), (90, 1)])
def test_reduces_other_formats_after_decoding(pipeline, face_side, divisor):
    photo = large_photo(face_side)
    result = decode_and_find(pipeline, encoded(photo, "PNG", compress_level=1))
    (face,) = result.faces
    (exact,) = pipeline.find_faces(np.asarray(photo))
    assert (result.size, result.divisor) == ((1901, 2603), divisor)
    assert result.pixels.shape[:2] == (-(-1901 // divisor), -(-2603 // divisor))
    assert np.abs(face.landmarks - exact.landmarks).max() < 0.02 * exact.box.width


def test_finds_faces_in_photos_that_cannot_be_reduced(pipeline, astronaut):
    result = decode_and_find(pipeline, encoded(Image.fromarray(astronaut)))
    assert (len(result.faces), result.divisor) == (1, 1)


def test_a_truncated_large_photo_is_unreadable(pipeline):
    photo_bytes = encoded(large_photo(270))
    with pytest.raises(UnreadablePhoto):
        decode_and_find(pipeline, photo_bytes[: len(photo_bytes) // 2])


@pytest.fixture(scope="module")
def spec():
    config = text_format.Parse((MODEL / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    return ModelSpec.from_config(config, "1")


@pytest.fixture(scope="module")
def network():
    with warnings.catch_warnings():  # Triton's backend loads TorchScript, although it is deprecated
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        return torch.jit.load(MODEL / "1" / "model.pt").eval()


@pytest.mark.parametrize("face_side", [200, 270, 400])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_reduced_photo_gets_the_labels_of_the_full_one(pipeline, spec, network, face_side, mirrored):
    photo = large_photo(face_side)
    photo_bytes = encoded(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else photo, quality=90)
    result = decode_and_find(pipeline, photo_bytes)
    assert result.divisor == 2
    full = decode_photo(photo_bytes, max_pixels=50_000_000)
    crop = partial(crop_faces, template=spec.alignment_template, size=spec.crop_size)
    crops = [
        crop(full, pipeline.find_faces(full)),
        crop(result.pixels, result.faces, divisor=result.divisor),
        crop(full, result.faces),
    ]
    with torch.inference_mode():
        expected, *reduced = (network(torch.from_numpy(crop)).numpy()[0] for crop in crops)
    for probabilities in reduced:
        assert probabilities.argmax() == expected.argmax()
        assert np.abs(probabilities - expected).max() < 0.1
    assert np.abs(crops[1].astype(int) - crops[2]).mean() < 5  # gray levels, with the same landmarks


@pytest.mark.parametrize("limit", [100_000, 1_500_000])
def test_a_photo_over_the_pixel_limit_has_faces_in_pixels_of_its_full_size(pipeline, limit):
    """With a low limit it is searched at half its size, else at a quarter, and refined at half."""
    small = limit == 100_000
    photo = Image.fromarray(data.astronaut()) if small else large_photo(60)
    with open_photo(encoded(photo, quality=95), max_pixels=limit) as opened:
        assert opened.divisor == 2
        found = pipeline.decode_and_find(opened, min_box_side=96)
    assert found.divisor == 2
    assert found.size == photo.size[::-1]
    (face,) = found.faces
    (expected,) = pipeline.find_faces(np.asarray(photo))
    box, exact = (np.array([each.box.x, each.box.y, each.box.width, each.box.height]) for each in (face, expected))
    assert np.abs(box - exact).max() < 0.15 * exact[2]
    assert np.abs(face.landmarks - expected.landmarks).max() < 0.1 * exact[2]
