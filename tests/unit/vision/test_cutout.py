import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.vision.cutout import MAX_SIDE, cut_out, data_url
from service.vision.face import Box

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def test_a_cutout_is_a_square_with_a_margin() -> None:
    assert np.array_equal(cut_out(PIXELS, Box(40, 30, 20, 10)), PIXELS[22:48, 37:63])


def test_a_cutout_ends_where_the_photo_does() -> None:
    assert np.array_equal(cut_out(PIXELS, Box(0, 70, 40, 20)), PIXELS[54:90, :46])


def test_a_large_face_is_reduced() -> None:
    gray = np.full((900, 900, 3), 99, np.uint8)
    assert cut_out(gray, Box(150, 150, 600, 500)).shape == (MAX_SIDE, MAX_SIDE, 3)


@given(*[st.floats(0, 130)] * 4)
def test_any_box_has_a_cutout(x: float, y: float, width: float, height: float) -> None:
    face = cut_out(PIXELS, Box(x, y, width, height))
    assert min(face.shape) >= 1
    assert max(face.shape) <= MAX_SIDE


@pytest.mark.parametrize("level", [0, 128, 255])
def test_the_url_holds_a_jpeg(level: int) -> None:
    head, _, content = data_url(np.full((20, 30, 3), level, np.uint8)).partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (30, 20))
        assert np.abs(np.asarray(picture).astype(int) - level).max() <= 2
