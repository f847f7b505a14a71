"""Decode uploaded photos; the pixel limit is checked on the header, before anything is decoded."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from pillow_heif import register_heif_opener

from service.errors import PhotoTooLarge, UnreadablePhoto, UnsupportedPhoto
from service.vision import avif_structure, jpeg_end, tiff_structure
from service.vision.bomb_checks import check_scans, check_size, check_structure, count_scans
from service.vision.file_types import PHOTO_FORMATS, describe, is_avif, is_photo

Pixels = NDArray[np.uint8]
"""RGB, [height, width, 3], 0..255."""

READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are read. AVIF is recognized first, since it looks like HEIF."""

MEDIA_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/heic",
    "image/avif",
    "image/gif",
    "image/bmp",
    "image/tiff",
)
"""Their media types."""

EXIF_ORIENTATION = 0x0112
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

SEQUENTIAL_JPEG_BYTES_PER_PIXEL = 6
"""Measured peak memory of a JPEG in RGB or gray that is not progressive."""

MAX_BYTES_PER_PIXEL = 13
"""Measured peak memory of any other photo; the coefficients of a progressive JPEG in CMYK take the most."""

BYTES_PER_PIXEL = {"AVIF": 23, "TIFF": 20}
"""Peak memory of an AVIF with 10 bits, full colors and alpha, and of a turned TIFF in one strip."""

RUN_LENGTH_BITMAPS = (1, 2)
"""Compressions of a BMP that Pillow decodes in Python, a run at a time."""

OS2_HEADER_SIZE = 12
"""Of a BMP that has no field for a compression."""

SMALL_SHARE = 0.01

TIMES_WITHOUT_END = 4
"""How often a JPEG without an end is decoded: reduced, twice to see what is missing, and for its pixels."""

WHITE_IS_ZERO = 0
"""Photometric interpretation of a TIFF, which Pillow applies to 8 bits only."""

HALVED_SHARE = 5
"""How many times the pixel limit a JPEG may have: libjpeg halves its sides while it decodes row by row, in about
the memory of a photo at the limit. That is 250 Mpx by default, and phones take photos of up to 200."""

STRIP_ROWS = 256
"""Rows to convert to RGB at a time."""

register_heif_opener()
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a worker has one core
# Pillow's limit is replaced by TANDEM_MAX_PIXELS, which is checked on the header before decoding.
Image.MAX_IMAGE_PIXELS = None


def decode_photo(photo: bytes, *, max_pixels: int) -> Pixels:
    """Decode a photo and apply its EXIF orientation.

    The sides of a JPEG that exceeds the limit are halved, as ``EncodedPhoto.divisor`` says. Takes the first frame
    of an animation, blends transparency with white, and keeps the upper 8 of 16 bits.

    Raises:
        UnsupportedPhoto: The photo is in none of ``PHOTO_FORMATS``, or in an unusual kind of one.
        PhotoTooLarge: The header states more than ``max_pixels``, and the photo cannot be read at half its size.
        UnreadablePhoto: The photo is broken or truncated, or is a decompression bomb.
    """
    with open_photo(photo, max_pixels=max_pixels) as encoded:
        return encoded.decode()


def open_photo(photo: bytes, *, max_pixels: int) -> "EncodedPhoto":
    """Read only a photo's header. Raises the errors of ``decode_photo``."""
    try:
        check_structure(photo)
        if photo[:4] in tiff_structure.SIGNATURES:
            tiff_structure.check_fields(photo)
        if is_avif(photo):
            photo = avif_structure.as_still(photo)
            image = Image.open(io.BytesIO(photo), formats=("AVIF",))
        else:
            image = Image.open(io.BytesIO(photo), formats=READABLE_FORMATS)
        if image.format == "TIFF" and image.mode in ("F", "I"):
            raise UnsupportedPhoto("the samples of the TIFF have 32 bits or a sign; 8 and 16 bits are supported")
        check_size(photo, *image.size)
    except UnidentifiedImageError:
        raise _not_a_photo(photo) from None
    except UnsupportedPhoto:
        raise
    except Exception as error:  # hostile bytes can make a decoder raise anything
        raise UnreadablePhoto(f"the photo's header cannot be read: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        if width * height <= HALVED_SHARE * max_pixels and _can_be_halved(image, photo):
            return EncodedPhoto(image, photo, divisor=2)
        image.close()
        if image.format == "JPEG" or width * height <= HALVED_SHARE * max_pixels:
            halved = f", and {HALVED_SHARE * max_pixels / 1e6:,.1f} Mpx for a JPEG in RGB or gray, not progressive"
        else:
            halved = ""
        raise PhotoTooLarge(
            f"photo is {width:,} x {height:,} = {width * height / 1e6:,.1f} Mpx; "
            f"the limit is {max_pixels / 1e6:,.1f} Mpx (TANDEM_MAX_PIXELS){halved}"
        )
    return EncodedPhoto(image, photo)


def _can_be_halved(image: Image.Image, photo: bytes) -> bool:
    """Whether libjpeg decodes it row by row; of several scans it holds the whole photo."""
    return isinstance(image, JpegImageFile) and image.mode in ("RGB", "L") and count_scans(photo, 1) == 1


def _not_a_photo(photo: bytes) -> UnreadablePhoto | UnsupportedPhoto:
    upload = f"the upload of {len(photo):,} bytes"
    if is_photo(photo):
        return UnreadablePhoto(
            f"{upload} begins like a photo, but its header is broken, cut off or of a rare kind"
        )
    looks = describe(photo)
    return UnsupportedPhoto(
        f"{upload} is not a photo in {PHOTO_FORMATS}" + (f"; it looks like {looks}" if looks else "")
    )


class EncodedPhoto:
    """A photo of which only the header has been read. A context manager.

    Attributes:
        divisor: By what factor ``decode`` reduces its sides: 2 if it exceeds the pixel limit, else 1.
    """

    def __init__(self, image: Image.Image, photo: bytes, divisor: int = 1) -> None:
        self.divisor = divisor
        self._image = image
        self._photo = photo
        self._stored_size = image.size
        self._is_odd = False
        """Whether libjpeg warned, so that Pillow has to decide whether the file is truncated or only odd."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.close()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, with the EXIF orientation applied; not reduced."""
        width, height = self._stored_size
        return (width, height) if self._orientation in TRANSPOSED_ORIENTATIONS else (height, width)

    @property
    def decoding_bytes(self) -> int:
        """Peak memory of decoding it and finding its faces."""
        if self._is_rgb_or_gray_jpeg and not self._image.info.get("progressive"):
            return SEQUENTIAL_JPEG_BYTES_PER_PIXEL * self._decoded_pixels
        return self.drawing_bytes

    @property
    def drawing_bytes(self) -> int:
        """Peak memory of decoding it, drawing in it and encoding it again."""
        return BYTES_PER_PIXEL.get(self._image.format or "", MAX_BYTES_PER_PIXEL) * self._decoded_pixels

    @property
    def _decoded_pixels(self) -> int:
        width, height = self._decoded_size
        return width * height

    @property
    def _decoded_size(self) -> tuple[int, int]:
        width, height = self._stored_size
        return -(-width // self.divisor), -(-height // self.divisor)

    def decode_reduced(self, *, min_long_side: int, min_area: int) -> tuple[Pixels, int] | None:
        """Decode a JPEG at 1/8, 1/4 or 1/2 of its size, whichever is the smallest to have ``min_long_side`` and
        ``min_area`` in pixels; libjpeg scales while it decodes, which saves time and memory.

        Returns:
            The upright pixels and the divisor, or None if the photo is too small or not a JPEG in RGB or gray, or
            if it is broken: ``decode`` raises the error.
        """
        if not self._is_rgb_or_gray_jpeg:
            return None
        width, height = self._stored_size
        divisor = reduction((height, width), min_long_side=min_long_side, min_area=min_area)
        if divisor <= self.divisor:
            return None
        try:
            check_scans(self._photo, width * height, times=2)
            minimum = {"min_width": -(-width // divisor), "min_height": -(-height // divisor)}
            pixels = np.asarray(simplejpeg.decode_jpeg(self._photo, colorspace="RGB", fastdct=False, **minimum))
            return np.ascontiguousarray(_orient(pixels, self._orientation)), divisor
        except Exception:  # hostile bytes can make a decoder raise anything
            self._is_odd = True
            return None

    def decode(self) -> Pixels:
        """Decode the upright pixels, at 1/``divisor`` of their size, and free Pillow's copy.

        Raises the errors of ``decode_photo``.
        """
        try:
            orientation = self._orientation
            pixels = self._decode_stored()
        except Exception as error:
            raise UnreadablePhoto(f"the {self._image.format} photo cannot be decoded: {error}") from error
        finally:
            self._image.close()
        return np.ascontiguousarray(_orient(pixels, orientation))

    @property
    def _orientation(self) -> Any:
        if isinstance(self._image, TiffImageFile):
            return 1  # Pillow applies it
        return self._image.getexif().get(EXIF_ORIENTATION, 1)

    @property
    def _is_rgb_or_gray_jpeg(self) -> bool:
        return isinstance(self._image, JpegImageFile) and self._image.mode in ("RGB", "L")

    def _decode_stored(self) -> Pixels:
        """Decode the pixels as they are stored, without the EXIF orientation."""
        image = self._image
        if isinstance(image, JpegImageFile):
            # In RGB or gray it may have been decoded once, reduced.
            times = 2 if self._is_rgb_or_gray_jpeg else 1
            check_scans(self._photo, image.width * image.height, times=times)
        if image.format == "AVIF":
            avif_structure.check_frames(self._photo, image.width * image.height)
        if self._is_rgb_or_gray_jpeg and not self._is_odd:
            try:
                width, height = self._decoded_size
                return np.asarray(
                    simplejpeg.decode_jpeg(
                        self._photo, colorspace="RGB", fastdct=False, min_width=width, min_height=height
                    )
                )
            except ValueError:
                self._is_odd = True
        if isinstance(image, JpegImageFile) and jpeg_end.lacks_end(self._photo):
            image = self._with_end()
        if self.divisor > 1:  # libjpeg scales while it decodes
            image.draft(image.mode, (image.width // self.divisor, image.height // self.divisor))
        bits, photometric = 16, None
        if isinstance(image, TiffImageFile):
            bits = image.tag_v2.get(BITSPERSAMPLE, (bits,))[0]
            photometric = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION)
        read_strip = self._strips_by_opencv() if self._is_for_opencv else partial(_read_strip, image)
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        # Converting the whole image at once would hold two or three copies of it.
        for top in range(0, image.height, STRIP_ROWS):
            pixels[top : top + STRIP_ROWS] = _to_rgb(read_strip(top), bits)
        if isinstance(image, TiffImageFile) and image.mode == "I;16" and photometric == WHITE_IS_ZERO:
            np.subtract(255, pixels, out=pixels)
        return pixels

    def _with_end(self) -> Image.Image:
        """Open a JPEG anew with the end that it lacks, if only that is missing."""
        check_scans(self._photo, self._stored_size[0] * self._stored_size[1], times=TIMES_WITHOUT_END)
        share = jpeg_end.missing_share(self._photo, self._decoded_size)
        if share:
            missing = "less than 1 %" if share < SMALL_SHARE else f"about {share:.0%}".replace("%", " %")
            raise ValueError(f"it is cut off; {missing} of it is missing")
        return Image.open(io.BytesIO(self._photo + jpeg_end.END), formats=("JPEG",))

    @property
    def _is_for_opencv(self) -> bool:
        """Whether it is a WebP, for which Pillow takes twice the memory, or a BMP, for which it takes long."""
        if self._image.format != "BMP":
            return self._image.format == "WEBP"
        header_size, compression = (int.from_bytes(self._photo[at : at + 4], "little") for at in (14, 30))
        return header_size > OS2_HEADER_SIZE and compression in RUN_LENGTH_BITMAPS

    def _strips_by_opencv(self) -> Callable[[int], Image.Image]:
        self._image.close()
        frame = cv2.imdecode(np.frombuffer(self._photo, np.uint8), cv2.IMREAD_UNCHANGED)
        if frame is None or frame.shape[:2] != (self._image.height, self._image.width):
            raise ValueError("the image is broken or truncated")
        if frame.ndim == 2:
            return lambda top: Image.fromarray(frame[top : top + STRIP_ROWS])
        conversion = cv2.COLOR_BGRA2RGBA if frame.shape[2] == 4 else cv2.COLOR_BGR2RGB
        return lambda top: Image.fromarray(cv2.cvtColor(frame[top : top + STRIP_ROWS], conversion))


def reduction(size: tuple[int, int], *, min_long_side: int, min_area: int) -> int:
    """Return by how much (8, 4, 2 or 1) a photo of ``size`` (height, width) can be reduced to keep the minimum."""
    height, width = size
    for divisor in (8, 4, 2):
        if max(width, height) >= divisor * min_long_side and width * height >= divisor**2 * min_area:
            return divisor
    return 1


def _read_strip(image: Image.Image, top: int) -> Image.Image:
    return image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))


def _to_rgb(strip: Image.Image, bits: int = 16) -> NDArray[np.uint8]:
    """Convert rows to RGB [height, width, 3], or if each sample has 12 or 16 bits to gray [height, width, 1]."""
    if strip.mode.startswith("I"):  # convert() would saturate to white
        return (np.asarray(strip) >> bits - 8).clip(0, 255).astype(np.uint8)[:, :, None]
    if strip.has_transparency_data:
        layer = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(strip.convert("RGB"))


def _orient(pixels: Pixels, orientation: Any) -> Pixels:
    """Undo one of the eight orientations of EXIF 2.32, section 4.6.5; ignore an unknown one."""
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
