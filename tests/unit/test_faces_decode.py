import io
import struct
import zlib

import numpy as np
import pytest
from photos import UNDO_ORIENTATION
from PIL import Image
from skimage import data

from service.errors import PhotoTooLarge, UnreadablePhoto, UnsupportedPhoto
from service.faces.decode import decode_photo

LIMIT = 1_000_000


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(data.astronaut())


def difference(photo, image):
    return np.abs(photo.astype(int) - np.asarray(image.convert("RGB")).astype(int)).mean()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_each_format_gives_the_photo_in_rgb(astronaut, kind):
    photo = decode_photo(encode(astronaut, kind, quality=95), max_pixels=LIMIT)
    assert photo.shape == (512, 512, 3)
    assert photo.dtype == np.uint8
    assert difference(photo, astronaut) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_is_undone(astronaut, orientation, kind):
    image = astronaut.resize((64, 48))
    undo = UNDO_ORIENTATION[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if undo is None else image.transpose(undo)
    photo = decode_photo(encode(stored, kind, quality=95, exif=exif), max_pixels=LIMIT)
    assert photo.shape == (48, 64, 3)
    assert difference(photo, image) < 6


def test_16_bit_grey_keeps_its_upper_bits():
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    photo = decode_photo(encode(Image.fromarray(grey), "PNG"), max_pixels=LIMIT)
    assert np.array_equal(photo[:, :, 0], (grey >> 8).astype(np.uint8))
    assert np.array_equal(photo[:, :, 0], photo[:, :, 2])


def test_transparency_is_laid_on_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255  # upper half black, lower half clear
    photo = decode_photo(encode(Image.fromarray(pixels), "PNG"), max_pixels=LIMIT)
    assert photo[0, 0].tolist() == [0, 0, 0]
    assert photo[3, 0].tolist() == [255, 255, 255]


def test_cmyk_jpeg_has_the_colours_of_the_photo(astronaut):
    photo = decode_photo(encode(astronaut.convert("CMYK"), "JPEG", quality=95), max_pixels=LIMIT)
    assert difference(photo, astronaut) < 4


def test_grey_jpeg_and_palette_png_become_rgb(astronaut):
    for raw in (encode(astronaut.convert("L"), "JPEG"), encode(astronaut.convert("P"), "PNG")):
        assert decode_photo(raw, max_pixels=LIMIT).shape == (512, 512, 3)


def test_one_pixel_is_a_photo():
    assert decode_photo(encode(Image.new("RGB", (1, 1)), "PNG"), max_pixels=LIMIT).shape == (1, 1, 3)


@pytest.mark.parametrize("raw", [b"", b"text, not a photo", b"GIF89a" + bytes(100), b"%PDF-1.7"])
def test_other_formats_are_unsupported(raw):
    with pytest.raises(UnsupportedPhoto, match=r"is not a photo in JPEG, PNG, WebP or HEIC"):
        decode_photo(raw, max_pixels=LIMIT)


def test_a_real_gif_is_unsupported(astronaut):
    with pytest.raises(UnsupportedPhoto):
        decode_photo(encode(astronaut, "GIF"), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_photo_is_unreadable(astronaut, kind, share):
    raw = encode(astronaut, kind)
    with pytest.raises(UnreadablePhoto):
        decode_photo(raw[: int(len(raw) * share)], max_pixels=LIMIT)


def test_the_pixel_limit_is_checked_on_the_header():
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(PhotoTooLarge) as caught:
        decode_photo(bomb, max_pixels=50_000_000)
    assert caught.value.detail == (
        "photo is 20,000 x 20,000 = 400.0 Mpx; the limit is 50.0 Mpx (TANDEM_MAX_PIXELS)"
    )


def test_trailing_bytes_do_not_spoil_a_jpeg(astronaut):
    photo = decode_photo(encode(astronaut, "JPEG", quality=95) + b"trailing", max_pixels=LIMIT)
    assert difference(photo, astronaut) < 3
