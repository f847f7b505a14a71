import struct

import numpy as np
import pytest
from photos import UNDO_ORIENTATION, encoded, oriented, png_bomb
from PIL import Image
from skimage import data

from service.errors import PhotoTooLarge, UnreadablePhoto, UnsupportedPhoto
from service.vision.decoding import decode_photo, open_photo

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(data.astronaut())


def difference(pixels, image):
    return np.abs(pixels.astype(int) - np.asarray(image.convert("RGB")).astype(int)).mean()


FORMATS = ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF"]


@pytest.mark.parametrize("kind", FORMATS)
def test_decodes_each_format_to_rgb(astronaut, kind):
    pixels = decode_photo(encoded(astronaut, kind, quality=95), max_pixels=LIMIT)
    assert pixels.shape == (512, 512, 3)
    assert pixels.dtype == np.uint8
    assert difference(pixels, astronaut) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_applies_every_exif_orientation(astronaut, orientation, kind):
    image = astronaut.resize((64, 48))
    undo = UNDO_ORIENTATION[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if undo is None else image.transpose(undo)
    pixels = decode_photo(encoded(stored, kind, quality=95, exif=exif), max_pixels=LIMIT)
    assert pixels.shape == (48, 64, 3)
    assert difference(pixels, image) < 6


def test_keeps_the_upper_bits_of_16_bit_gray():
    gray = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode_photo(encoded(Image.fromarray(gray), "PNG"), max_pixels=LIMIT)
    assert np.array_equal(pixels[:, :, 0], (gray >> 8).astype(np.uint8))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_blends_transparency_with_white():
    image = np.zeros((4, 4, 4), np.uint8)
    image[:2, :, 3] = 255  # upper half black, lower half transparent
    pixels = decode_photo(encoded(Image.fromarray(image), "PNG"), max_pixels=LIMIT)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[3, 0].tolist() == [255, 255, 255]


def test_converts_cmyk_jpegs_to_rgb(astronaut):
    pixels = decode_photo(encoded(astronaut.convert("CMYK"), "JPEG", quality=95), max_pixels=LIMIT)
    assert difference(pixels, astronaut) < 4


def test_converts_gray_jpegs_and_palette_pngs_to_rgb(astronaut):
    for photo in (encoded(astronaut.convert("L"), "JPEG"), encoded(astronaut.convert("P"), "PNG")):
        assert decode_photo(photo, max_pixels=LIMIT).shape == (512, 512, 3)


def test_decodes_a_single_pixel():
    assert decode_photo(encoded(Image.new("RGB", (1, 1)), "PNG"), max_pixels=LIMIT).shape == (1, 1, 3)


@pytest.mark.parametrize("photo", [b"", b"text, not a photo", b"\0\0\1\0" + bytes(100), b"%PDF-1.7"])
def test_other_formats_are_unsupported(photo):
    with pytest.raises(UnsupportedPhoto):
        decode_photo(photo, max_pixels=LIMIT)


def test_jpeg_2000_is_refused_by_name(astronaut):
    for options in ({}, {"no_jp2": True}):
        with pytest.raises(UnsupportedPhoto, match="it looks like a JPEG 2000 image"):
            decode_photo(encoded(astronaut, "JPEG2000", **options), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_is_decoded(astronaut, kind):
    others = [astronaut.rotate(90), astronaut.resize((512, 512)).rotate(180)]
    photo = encoded(astronaut, kind, save_all=True, append_images=others)
    assert difference(decode_photo(photo, max_pixels=LIMIT), astronaut) < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_decodes_tiffs_of_each_mode(astronaut, mode, compression):
    image = astronaut.convert(mode)
    pixels = decode_photo(encoded(image, "TIFF", compression=compression), max_pixels=LIMIT)
    assert difference(pixels, image) < 0.5


def test_decodes_tiffs_of_16_and_12_bits_and_with_white_as_zero(astronaut):
    gray = np.asarray(astronaut.convert("L"))
    sixteen = Image.fromarray(gray.astype(np.uint16) * 257)
    assert np.array_equal(decode_photo(encoded(sixteen, "TIFF"), max_pixels=LIMIT)[:, :, 1], gray)
    white_is_zero = encoded(Image.fromarray(65535 - gray.astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(decode_photo(white_is_zero, max_pixels=LIMIT)[:, :, 1], gray)
    high, low = gray.reshape(-1, 2).T.astype(int) * 16
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=1).astype(np.uint8).tobytes()
    fields = {256: 512, 257: 512, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 512, 279: len(packed)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in fields.items())
    twelve = b"II*\0" + struct.pack("<L", 8 + len(packed)) + packed + struct.pack("<H", 9) + entries + bytes(4)
    assert np.array_equal(decode_photo(twelve, max_pixels=LIMIT)[:, :, 1], gray)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_tiffs_of_32_bits_are_unsupported(astronaut, mode):
    with pytest.raises(UnsupportedPhoto, match="32 bits"):
        decode_photo(encoded(astronaut.convert(mode), "TIFF"), max_pixels=LIMIT)


def test_raw_files_of_cameras_are_unsupported(astronaut):
    for field in ({254: 1}, {50706: b"\1\4\0\0"}):
        with pytest.raises(UnsupportedPhoto, match="raw file"):
            decode_photo(encoded(astronaut, "TIFF", tiffinfo=field), max_pixels=LIMIT)


def test_decodes_bmps_of_runs(astronaut):
    gray = np.repeat(np.arange(100, dtype=np.uint8)[:, None], 64, axis=1)
    runs = b"".join(bytes([64, row[0], 0, 0]) for row in gray[::-1]) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 64, 100, 1, 8, 1, len(runs), 0, 0, 0, 0)
    palette = b"".join(bytes([shade] * 3 + [0]) for shade in range(256))
    bmp = b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + palette + runs
    pixels = decode_photo(bmp, max_pixels=LIMIT)
    assert np.array_equal(pixels, np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker_is_decoded(astronaut, mode, options):
    whole = encoded(astronaut.convert(mode), "JPEG", **options)
    expected = decode_photo(whole, max_pixels=LIMIT)
    for cut in (whole[:-2], whole[:-1]):
        assert np.array_equal(decode_photo(cut, max_pixels=LIMIT), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_cut_off_says_how_much_is_missing(astronaut, mode):
    noise = Image.effect_noise((512, 512), 80).convert("RGB").convert(mode)  # all rows take the same bytes
    whole = encoded(noise, "JPEG")
    for share, said in ((0.999, "less than 1 %"), (0.75, r"about 2[4-7] %"), (0.5, r"about (49|5[0-2]) %")):
        with pytest.raises(UnreadablePhoto, match=f"cut off; {said} of it is missing"):
            decode_photo(whole[: int(len(whole) * share)], max_pixels=LIMIT)


def test_a_progressive_jpeg_without_its_last_scans_is_cut_off(astronaut):
    whole = encoded(astronaut, "JPEG", progressive=True)
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    for start, said in ((starts[1], "99 %"), (starts[-1], "16 %")):
        end = whole.rfind(b"\xff\xc4", 0, start)  # the tables of the scan
        with pytest.raises(UnreadablePhoto, match=f"about {said} of it is missing"):
            decode_photo(whole[:end], max_pixels=LIMIT)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_photo_is_unreadable(astronaut, kind, share):
    photo = encoded(astronaut, kind)
    with pytest.raises(UnreadablePhoto):
        decode_photo(photo[: int(len(photo) * share)], max_pixels=LIMIT)


def test_the_pixel_limit_is_checked_on_the_header():
    with pytest.raises(PhotoTooLarge) as caught:
        decode_photo(png_bomb(20_000), max_pixels=50_000_000)
    assert caught.value.detail == (
        "photo is 20,000 x 20,000 = 400.0 Mpx; the limit is 50.0 Mpx (TANDEM_MAX_PIXELS)"
    )


def test_ignores_trailing_bytes_of_a_jpeg(astronaut):
    pixels = decode_photo(encoded(astronaut, "JPEG", quality=95) + b"trailing", max_pixels=LIMIT)
    assert difference(pixels, astronaut) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(264, 200), (267, 197), (197, 267)])
def test_reduces_jpegs_of_any_size_upright(astronaut, orientation, size):
    # A smooth image, because the first block of a rotated JPEG may be a partial one.
    image = astronaut.resize((20, 16)).resize(size)
    for divisor in (2, 4, 8):
        with open_photo(oriented(image, orientation), max_pixels=LIMIT) as opened:
            assert opened.size == (size[1], size[0])
            pixels, found_divisor = opened.decode_reduced(min_long_side=max(size) // divisor, min_area=1)
        assert found_divisor == divisor
        assert pixels.flags.c_contiguous
        expected = image.resize((-(-size[0] // divisor), -(-size[1] // divisor)), Image.Resampling.BOX)
        assert pixels.shape == (*expected.size[::-1], 3)
        assert difference(pixels, expected) < 9
        assert difference(pixels[:, ::-1], expected) > 30


def test_decodes_the_smallest_size_that_is_large_enough(astronaut):
    photo = encoded(astronaut.resize((400, 200)), "JPEG")
    for min_long_side, min_area, expected in (
        (50, 1250, 8),
        (51, 1250, 4),
        (50, 1251, 4),
        (101, 1, 2),
        (200, 20_000, 2),
        (201, 1, None),
        (1, 20_001, None),
    ):
        with open_photo(photo, max_pixels=LIMIT) as opened:
            reduced = opened.decode_reduced(min_long_side=min_long_side, min_area=min_area)
        assert (reduced and reduced[1]) == expected


@pytest.mark.parametrize("kind", [*FORMATS[1:], "CMYK"])
def test_other_photos_cannot_be_reduced_but_decoded(astronaut, kind):
    photo = encoded(astronaut.convert("CMYK"), "JPEG") if kind == "CMYK" else encoded(astronaut, kind)
    with open_photo(photo, max_pixels=LIMIT) as opened:
        assert opened.decode_reduced(min_long_side=1, min_area=1) is None
        assert opened.decode().shape == (512, 512, 3)


def test_reduces_gray_and_progressive_jpegs(astronaut):
    for photo in (encoded(astronaut.convert("L"), "JPEG"), encoded(astronaut, "JPEG", progressive=True)):
        with open_photo(photo + b"trailing", max_pixels=LIMIT) as opened:
            pixels, divisor = opened.decode_reduced(min_long_side=128, min_area=1)
        assert (pixels.shape, divisor) == ((128, 128, 3), 4)


def test_a_broken_jpeg_cannot_be_reduced_and_raises_the_error_of_decoding(astronaut):
    whole = encoded(astronaut, "JPEG", quality=95)
    progressive = encoded(astronaut, "JPEG", progressive=True)
    scans = progressive[:-2] + progressive[progressive.rfind(b"\xff\xc4") : -2] * 200 + b"\xff\xd9"
    for photo in (whole[: len(whole) // 2], whole[:-200], scans):
        with pytest.raises(UnreadablePhoto) as expected:
            decode_photo(photo, max_pixels=LIMIT)
        with open_photo(photo, max_pixels=LIMIT) as opened:
            assert opened.decode_reduced(min_long_side=64, min_area=1) is None
            with pytest.raises(UnreadablePhoto) as caught:
                opened.decode()
        assert caught.value.detail == expected.value.detail


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(264, 200), (267, 197)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_over_the_limit_is_decoded_at_half_its_size(astronaut, orientation, size, mode):
    image = astronaut.resize((20, 16)).resize(size).convert(mode)
    expected = image.convert("RGB").resize((-(-size[0] // 2), -(-size[1] // 2)), Image.Resampling.BOX)
    for content in (oriented(image, orientation), oriented(image, orientation) + b"trailing"):
        with open_photo(content, max_pixels=20_000) as opened:
            assert (opened.size, opened.divisor) == ((size[1], size[0]), 2)
            assert opened.decoding_bytes < 7 * 20_000
            pixels = opened.decode()
        assert pixels.shape == (*expected.size[::-1], 3)
        assert difference(pixels, expected) < 9
    with open_photo(oriented(image, orientation), max_pixels=20_000) as opened:
        assert opened.decode_reduced(min_long_side=size[0] // 2, min_area=1) is None  # decode() gives the same
        _, divisor = opened.decode_reduced(min_long_side=size[0] // 4, min_area=1)
    assert divisor == 4


def test_a_damaged_jpeg_over_the_limit_is_not_decoded_at_its_full_size(astronaut):
    photo = encoded(astronaut)
    with pytest.raises(UnreadablePhoto):
        decode_photo(photo[: len(photo) // 2], max_pixels=512 * 512 // 3)
    with open_photo(photo[:2000] + b"\0\0" + photo[2000:], max_pixels=512 * 512 // 3) as opened:  # libjpeg warns
        assert opened.decode().shape == (256, 256, 3)


def test_photos_over_the_limit_that_cannot_be_halved_are_refused(astronaut):
    limit = 512 * 512 // 3
    for photo in (
        encoded(astronaut, "PNG"),
        encoded(astronaut, progressive=True),
        encoded(astronaut.convert("CMYK")),
        encoded(astronaut.resize((1200, 400))),  # more than five times the limit
    ):
        with pytest.raises(
            PhotoTooLarge, match=r"limit is 0\.1 Mpx \(TANDEM_MAX_PIXELS\), and 0\.4 Mpx for a JPEG"
        ):
            decode_photo(photo, max_pixels=limit)


def test_photos_of_the_largest_phones_are_read():
    for width, height in ((12_000, 9_000), (16_384, 12_288)):
        with open_photo(encoded(Image.new("L", (width, height), 99)), max_pixels=50_000_000) as opened:
            assert opened.decoding_bytes < 1024 * 1024**2  # TANDEM_MAX_DECODING_BYTES
            pixels, divisor = opened.decode_reduced(min_long_side=1280, min_area=1)
        assert (pixels.shape, divisor) == ((height // 8, width // 8, 3), 8)
        assert pixels.min() >= 98
        assert pixels.max() <= 100
