"""From uploaded bytes to pixels, with the limits checked on the header before anything is decoded."""

import io
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from pillow_heif import register_heif_opener

from service.errors import PhotoTooLarge, UnreadablePhoto, UnsupportedPhoto

Photo = NDArray[np.uint8]
"""RGB, [height, width, 3], 0..255."""

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF")
"""What is read, by Pillow's names."""

EXIF_ORIENTATION = 0x0112

register_heif_opener()
# Pillow's own limit knows neither our setting nor how to say it; ours is checked on the header, before decoding.
Image.MAX_IMAGE_PIXELS = None


def decode_photo(data: bytes, *, max_pixels: int) -> Photo:
    """Decode a photo and turn it upright by its EXIF orientation.

    Of an animation the first frame is taken; transparency is laid on white; 16-bit grey keeps its upper 8 bits.

    Raises:
        UnsupportedPhoto: the bytes are none of JPEG, PNG, WebP, HEIC.
        PhotoTooLarge: the header promises more than ``max_pixels``.
        UnreadablePhoto: the image is broken or cut off.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedPhoto(
            f"the upload of {len(data):,} bytes is not a photo in JPEG, PNG, WebP or HEIC"
        ) from None
    except Exception as error:  # hostile bytes decide what a decoder raises
        raise UnreadablePhoto(f"the photo's header cannot be read: {error}") from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise PhotoTooLarge(
                f"photo is {width:,} x {height:,} = {width * height / 1e6:,.1f} Mpx; "
                f"the limit is {max_pixels / 1e6:,.1f} Mpx (TANDEM_MAX_PIXELS)"
            )
        try:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            pixels = _pixels(image, data)
        except Exception as error:
            raise UnreadablePhoto(f"the {image.format} photo cannot be decoded: {error}") from error
    return np.ascontiguousarray(_upright(pixels, orientation))


def _pixels(image: Image.Image, data: bytes) -> Photo:
    if isinstance(image, JpegImageFile) and image.mode in ("RGB", "L"):
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False))
        except ValueError:
            pass  # libjpeg warned; Pillow tells a harmless oddity from a truncated file
    if image.mode.startswith("I;16") or image.mode == "I":  # convert() would saturate to white
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        opaque = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(opaque, layer)
    return np.asarray(image.convert("RGB"))


def _upright(pixels: Photo, orientation: Any) -> Photo:
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
