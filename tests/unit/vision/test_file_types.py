import base64
import io
import zipfile

import pytest
from photos import astronaut, encoded

from service.vision.file_types import describe, form_boundary, is_avif, is_photo, is_zip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF"])
def test_every_format_is_a_photo(kind: str) -> None:
    photo = encoded(astronaut().resize((64, 64)), kind)
    assert is_photo(photo)
    assert is_avif(photo) == (kind == "AVIF")
    assert not is_zip(photo)


def test_an_avif_whose_first_brand_is_that_of_heif_is_one() -> None:
    avif = encoded(astronaut().resize((64, 64)), "AVIF")
    assert is_avif(avif[:8] + b"mif1" + avif[12:])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", ""),
        (bytes(600), "nothing but zeros"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51\0", "a JPEG 2000 image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"BMW cars", "text"),
        (b"\0\0\0\x18ftypmp42", "a video or sound in MP4 or QuickTime"),
        (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
        (b"RIFF\0\0\0\0AVI ", "an AVI video"),
        (b"  <!DOCTYPE html>", "an HTML page"),
        (b"<?xml version='1.0'?><svg>", "an SVG drawing"),
        (b"\xef\xbb\xbf{}", "JSON, which needs Content-Type: application/json"),
        (base64.b64encode(b"\xff\xd8\xff\xe0"), "a photo in base64, which belongs into JSON"),
        (b"data:image/png;base64,", "a data: URL"),
        (b"\xef\xbf\xbd\xef\xbf\xbd", "binary data that was decoded as text"),
        (b"\xf3\xa8\x00\x01", ""),
    ],
)
def test_says_what_bytes_look_like(data: bytes, what: str) -> None:
    assert describe(data).startswith(what)
    assert bool(describe(data)) == bool(what)
    assert not is_photo(data)


def test_archives_and_forms_are_recognized() -> None:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    assert is_zip(buffer.getvalue())
    assert form_boundary(b'--b 1\r\nContent-Disposition: form-data; name="a"') == b"b 1"
    assert form_boundary(b"-- not a form\r\n") is None
