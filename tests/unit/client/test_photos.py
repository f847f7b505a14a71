"""Whatever callers have of a photo becomes the bytes of one, with the same pixels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import astronaut, encoded, oriented
from PIL import Image

from service.client import CallFailed, NoSuchFile, UnreadableFile, UnusablePhoto
from service.client.photos import encode
from service.vision.decoding import decode_photo

JPEG = encoded(astronaut())
PIXELS = np.asarray(astronaut())


def pixels_of(photo: Any) -> np.ndarray:
    return decode_photo(encode(photo), max_pixels=10**6)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_in_any_form_are_sent_as_they_are(kind: type) -> None:
    assert encode(kind(JPEG)) == JPEG


def test_paths_and_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    assert encode(path) == encode(str(path)) == JPEG
    with path.open("rb") as file:
        assert encode(file) == JPEG
        with pytest.raises(UnusablePhoto, match=r"seek\(0\)"):
            encode(file)
    with path.open(encoding="latin-1") as text, pytest.raises(UnusablePhoto, match="'rb'"):
        encode(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "form", [lambda pixels: pixels, np.asfortranarray, lambda pixels: pixels[..., ::-1][..., ::-1]]
)
def test_arrays_keep_every_pixel(form: Any) -> None:
    assert np.array_equal(pixels_of(form(PIXELS)), PIXELS)
    opaque = np.dstack([PIXELS, np.full((512, 512), 255, np.uint8)])
    assert np.array_equal(pixels_of(form(opaque)), PIXELS)
    gray = PIXELS[:, :300, 1]
    for array in (gray, gray[:, :, None]):
        assert np.array_equal(pixels_of(array), np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "YCbCr", "1"])
def test_images_of_any_mode_are_sent(mode: str) -> None:
    image = astronaut().convert(mode)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(image), expected)


def test_images_keep_their_orientation() -> None:
    file = oriented(astronaut(), 6)
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(pixels_of(image), pixels_of(file))


@pytest.mark.parametrize(
    ("photo", "named"),
    [
        (PIXELS / 255, r"shape \(512, 512, 3\) and type f8; expected is uint8, as RGB"),
        (PIXELS.transpose(2, 0, 1), r"shape \(3, 512, 512\)"),
        (PIXELS[None], r"shape \(1, 512, 512, 3\)"),
        (PIXELS[:0], r"shape \(0, 512, 3\)"),
        (PIXELS > 9, "type b1"),
        (7, "a photo is a path, bytes, .* not int"),
        (None, "not NoneType"),
        ([JPEG], "not list"),
    ],
)
def test_what_is_no_photo_is_named(photo: Any, named: str) -> None:
    with pytest.raises(UnusablePhoto, match=named) as raised:
        encode(photo)
    assert isinstance(raised.value, CallFailed)
    assert isinstance(raised.value, TypeError)


def test_a_string_that_is_no_path_says_so(tmp_path: Path) -> None:
    for text in ("nothing.jpg", "https://example.com/a.jpg"):
        with pytest.raises(NoSuchFile, match=r"no such file \(a string is the path of a file\)") as raised:
            encode(text)
        assert raised.value.filename == text
        assert isinstance(raised.value, FileNotFoundError)
    for unusable in ("/9j/4AAQ" * 1000, "\0", str(tmp_path)):
        with pytest.raises(UnreadableFile, match="a string is the path of a file"):
            encode(unusable)
    with pytest.raises(NoSuchFile) as raised:
        encode(tmp_path / "nothing.jpg")
    assert raised.value.strerror == "no such file"
    assert raised.value.problem is raised.value.status is None
