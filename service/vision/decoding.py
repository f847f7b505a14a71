"""From uploaded bytes to pixels, with the limits checked on the header before anything is decoded."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from pillow_heif import register_heif_opener

from service.errors import PhotoTooLarge, UnreadablePhoto, UnsupportedPhoto
from service.vision.bomb_checks import check_scans, check_structure

Pixels = NDArray[np.uint8]
"""RGB, [height, width, 3], 0..255."""

READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF")
"""What is read, by Pillow's names."""

EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""Orientations in which the stored width is the upright photo's height."""

BYTES_PER_PIXEL, MAX_BYTES_PER_PIXEL = 6, 13
"""Memory for each pixel of a JPEG that is not progressive, and of any other photo, at its peak: measured, the
coefficients of a progressive JPEG in CMYK being the most."""

STRIP = 256
"""Rows that are converted at a time."""

register_heif_opener()
# Pillow's own limit knows neither our setting nor how to say it; ours is checked on the header, before decoding.
Image.MAX_IMAGE_PIXELS = None


def decode_photo(data: bytes, *, max_pixels: int) -> Pixels:
    """Decode a photo and turn it upright by its EXIF orientation.

    Of an animation the first frame is taken; transparency is laid on white; 16-bit grey keeps its upper 8 bits.

    Raises:
        UnsupportedPhoto: the bytes are none of JPEG, PNG, WebP, HEIC.
        PhotoTooLarge: the header promises more than ``max_pixels``.
        UnreadablePhoto: the image is broken or cut off, or made so that it takes too long.
    """
    with open_photo(data, max_pixels=max_pixels) as photo:
        return photo.decode()


def open_photo(data: bytes, *, max_pixels: int) -> "EncodedPhoto":
    """Read a photo's header only. Raises as ``decode_photo`` does."""
    try:
        check_structure(data)
        image = Image.open(io.BytesIO(data), formats=READABLE_FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedPhoto(
            f"the upload of {len(data):,} bytes is not a photo in JPEG, PNG, WebP or HEIC"
        ) from None
    except Exception as error:  # hostile bytes decide what a decoder raises
        raise UnreadablePhoto(f"the photo's header cannot be read: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise PhotoTooLarge(
            f"photo is {width:,} x {height:,} = {width * height / 1e6:,.1f} Mpx; "
            f"the limit is {max_pixels / 1e6:,.1f} Mpx (TANDEM_MAX_PIXELS)"
        )
    return EncodedPhoto(image, data)


class EncodedPhoto:
    """A photo whose header was read; to be used in a ``with`` statement."""

    def __init__(self, image: Image.Image, data: bytes) -> None:
        self._image = image
        self._data = data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright photo in pixels."""
        width, height = self._image.size
        return (width, height) if self._image.getexif().get(EXIF_ORIENTATION, 1) in SIDEWAYS else (height, width)

    @property
    def decoding_bytes(self) -> int:
        """Bytes that decoding it and finding faces in it take, at most."""
        plain = isinstance(self._image, JpegImageFile) and not self._image.info.get("progressive")
        if plain and self._image.mode in ("RGB", "L"):
            return BYTES_PER_PIXEL * self._image.width * self._image.height
        return self.drawing_bytes

    @property
    def drawing_bytes(self) -> int:
        """Bytes that decoding, drawing and encoding it take, at most."""
        return MAX_BYTES_PER_PIXEL * self._image.width * self._image.height

    def decode_reduced(self, *, longer_side: int, area: int) -> tuple[Pixels, int] | None:
        """The upright pixels at 1/8, 1/4 or 1/2 of the size, and that divisor: the smallest of at least
        ``longer_side`` and ``area`` pixels. A JPEG's blocks can be decoded like this, in less time and memory.

        None for other photos, smaller ones and those that only ``decode`` can judge; it stays open for that.
        """
        if not (isinstance(self._image, JpegImageFile) and self._image.mode in ("RGB", "L")):
            return None
        width, height = self._image.size
        for divisor in (8, 4, 2):
            if max(width, height) >= divisor * longer_side and width * height >= divisor**2 * area:
                break
        else:
            return None
        try:
            check_scans(self._data, width * height)
            least = {"min_width": -(-width // divisor), "min_height": -(-height // divisor)}
            pixels = np.asarray(simplejpeg.decode_jpeg(self._data, colorspace="RGB", fastdct=False, **least))
            return np.ascontiguousarray(_upright(pixels, self._image.getexif().get(EXIF_ORIENTATION, 1))), divisor
        except Exception:  # hostile bytes decide what a decoder raises
            return None

    def decode(self) -> Pixels:
        """The upright pixels; of Pillow's memory nothing stays. Raises as ``decode_photo`` does."""
        try:
            orientation = self._image.getexif().get(EXIF_ORIENTATION, 1)
            pixels = _pixels(self._image, self._data)
        except Exception as error:
            raise UnreadablePhoto(f"the {self._image.format} photo cannot be decoded: {error}") from error
        finally:
            self._image.close()
        return np.ascontiguousarray(_upright(pixels, orientation))


def _pixels(image: Image.Image, data: bytes) -> Pixels:
    if isinstance(image, JpegImageFile):
        check_scans(data, image.width * image.height)
        if image.mode in ("RGB", "L"):
            try:
                return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False))
            except ValueError:
                pass  # libjpeg warned; Pillow tells a harmless oddity from a truncated file
    rows = _webp_rows(image, data) if image.format == "WEBP" else partial(_rows, image)
    photo = np.empty((image.height, image.width, 3), np.uint8)
    # A conversion of the whole would hold the photo two or three times more.
    for top in range(0, image.height, STRIP):
        photo[top : top + STRIP] = _rgb(rows(top))
    return photo


def _rows(image: Image.Image, top: int) -> Image.Image:
    return image.crop((0, top, image.width, min(top + STRIP, image.height)))


def _webp_rows(image: Image.Image, data: bytes) -> Callable[[int], Image.Image]:
    """Strips of a WebP's first frame. OpenCV takes half the memory of Pillow, which prepares for an animation."""
    image.close()
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if frame is None or frame.shape[:2] != (image.height, image.width):
        raise ValueError("the image is broken or cut off")
    order = cv2.COLOR_BGRA2RGBA if frame.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return lambda top: Image.fromarray(cv2.cvtColor(frame[top : top + STRIP], order))


def _rgb(strip: Image.Image) -> NDArray[np.uint8]:
    """RGB [height, width, 3], or grey [height, width, 1], of some rows of an image."""
    if strip.mode.startswith("I"):  # convert() would saturate to white
        return (np.asarray(strip) >> 8).clip(0, 255).astype(np.uint8)[:, :, None]
    if strip.has_transparency_data:
        layer = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(strip.convert("RGB"))


def _upright(pixels: Pixels, orientation: Any) -> Pixels:
    """Undo one of the eight orientations of EXIF 2.32, section 4.6.5; an unknown one is left alone."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.transpose(1, 0, 2)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].transpose(1, 0, 2)
        case 8:
            return np.rot90(pixels)
        case _:
            return pixels
