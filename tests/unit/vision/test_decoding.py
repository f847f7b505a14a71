import io
import struct
import zlib

import numpy as np
import pytest
from photos import UNDO_ORIENTATION, oriented
from PIL import Image
from skimage import data

from service.errors import PhotoTooLarge, UnreadablePhoto, UnsupportedPhoto
from service.vision.decoding import decode_photo, open_photo

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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(264, 200), (267, 197), (197, 267)])
def test_a_jpeg_is_reduced_upright_and_of_any_size(astronaut, orientation, size):
    image = astronaut.resize((20, 16)).resize(
        size
    )  # smooth: of a turned photo the first block may be a part of one
    for divisor in (2, 4, 8):
        with open_photo(oriented(image, orientation), max_pixels=LIMIT) as photo:
            assert photo.size == (size[1], size[0])
            pixels, found = photo.decode_reduced(longer_side=max(size) // divisor, area=1)
        assert found == divisor
        assert pixels.flags.c_contiguous
        expected = image.resize((-(-size[0] // divisor), -(-size[1] // divisor)), Image.Resampling.BOX)
        assert pixels.shape == (*expected.size[::-1], 3)
        assert difference(pixels, expected) < 9
        assert difference(pixels[:, ::-1], expected) > 30


def test_the_smallest_is_decoded_that_is_large_enough(astronaut):
    raw = encode(astronaut.resize((400, 200)), "JPEG")
    for longer_side, area, expected in (
        (50, 1250, 8),
        (51, 1250, 4),
        (50, 1251, 4),
        (101, 1, 2),
        (200, 20_000, 2),
        (201, 1, None),
        (1, 20_001, None),
    ):
        with open_photo(raw, max_pixels=LIMIT) as photo:
            reduced = photo.decode_reduced(longer_side=longer_side, area=area)
        assert (reduced and reduced[1]) == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "HEIF", "CMYK"])
def test_what_cannot_be_reduced_can_be_decoded_still(astronaut, kind):
    raw = encode(astronaut.convert("CMYK"), "JPEG") if kind == "CMYK" else encode(astronaut, kind)
    with open_photo(raw, max_pixels=LIMIT) as photo:
        assert photo.decode_reduced(longer_side=1, area=1) is None
        assert photo.decode().shape == (512, 512, 3)


def test_grey_and_progressive_jpegs_are_reduced_too(astronaut):
    for raw in (encode(astronaut.convert("L"), "JPEG"), encode(astronaut, "JPEG", progressive=True)):
        with open_photo(raw + b"trailing", max_pixels=LIMIT) as photo:
            pixels, divisor = photo.decode_reduced(longer_side=128, area=1)
        assert (pixels.shape, divisor) == ((128, 128, 3), 4)


def test_a_broken_jpeg_is_never_reduced_and_has_the_error_of_decoding(astronaut):
    whole = encode(astronaut, "JPEG", quality=95)
    progressive = encode(astronaut, "JPEG", progressive=True)
    scans = progressive[:-2] + progressive[progressive.rfind(b"\xff\xc4") : -2] * 200 + b"\xff\xd9"
    for raw in (whole[: len(whole) // 2], whole[:-200], scans):
        with pytest.raises(UnreadablePhoto) as expected:
            decode_photo(raw, max_pixels=LIMIT)
        with open_photo(raw, max_pixels=LIMIT) as photo:
            assert photo.decode_reduced(longer_side=64, area=1) is None
            with pytest.raises(UnreadablePhoto) as caught:
                photo.decode()
        assert caught.value.detail == expected.value.detail
