"""The forms in which callers have a photo, and the bytes that are sent for it."""

import io
import os
import struct
import zlib
from typing import Any, Protocol, runtime_checkable

from service.client.errors import NoSuchFile, UnreadableFile, UnusablePhoto


@runtime_checkable
class Readable(Protocol):
    """A file object that was opened in binary mode."""

    def read(self) -> bytes:
        """Return the rest of the file."""


@runtime_checkable
class Array(Protocol):
    """A NumPy array: uint8, RGB [height, width, 3], RGBA [height, width, 4] or gray [height, width]."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...

    def tobytes(self) -> bytes:
        """Return the pixels, row by row."""


@runtime_checkable
class Picture(Protocol):
    """A PIL image."""

    mode: str

    def getexif(self) -> Any:
        """Return the EXIF tags, one of which is the orientation."""

    def convert(self, mode: str) -> "Picture":
        """Return a copy with other bands."""

    def save(self, fp: Any, format: str, **options: Any) -> None:
        """Write the image."""


Photo = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Array | Picture
"""A photo: the path of a file (as a string, too), encoded bytes, a binary file, a NumPy array or a PIL image."""

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

ORIENTATION = 0x0112

PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Color types by the number of channels (PNG, section 11.2.2)."""

EXPECTED_ARRAY = "expected is uint8, as RGB [height, width, 3], RGBA [height, width, 4] or gray [height, width]"

EXPECTED = "a path, bytes, a file opened in binary mode, a NumPy array or a PIL image"


def encode(photo: Photo) -> bytes:
    """Return the bytes to send for a photo.

    A PIL image and an array become a PNG, so that nothing is lost. The orientation of a PIL image is kept.

    Raises:
        UnreadableFile: The file cannot be read.
        UnusablePhoto: It is none of the forms of ``Photo``, or an array of another kind.
    """
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, str | os.PathLike):
        return _read(photo)
    if isinstance(photo, Picture):
        return _encode_picture(photo)
    if isinstance(photo, Array):
        return _encode_array(photo)
    if isinstance(photo, Readable):
        return _read_rest(photo)
    raise UnusablePhoto(f"a photo is {EXPECTED}, not {type(photo).__name__}")


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        hint = " (a string is the path of a file)" if isinstance(path, str) else ""
        raise NoSuchFile(error.errno, f"no such file{hint}", str(path)[:1000]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        hint = " (a string is the path of a file)" if isinstance(path, str) else ""
        message = getattr(error, "strerror", None) or str(error)
        raise UnreadableFile(getattr(error, "errno", None), f"{message}{hint}", str(path)[:1000]) from None


def _read_rest(file: Readable) -> bytes:
    content: object = file.read()
    if isinstance(content, str):
        raise UnusablePhoto("the file was opened in text mode; open it with mode 'rb'")
    if not isinstance(content, bytes):
        raise UnusablePhoto(f"a file's read() returns bytes, not {type(content).__name__}")
    if not content:
        raise UnusablePhoto("the file is empty, or was read to its end before; seek(0) rewinds it")
    return content


def _encode_picture(picture: Picture) -> bytes:
    converted = picture if picture.mode in PNG_MODES else picture.convert("RGB")
    buffer = io.BytesIO()
    exif = picture.getexif()
    options = {"exif": exif} if exif.get(ORIENTATION, 1) != 1 else {}
    converted.save(buffer, "PNG", compress_level=1, **options)
    return buffer.getvalue()


def _encode_array(array: Array) -> bytes:
    interface = array.__array_interface__
    shape, kind = interface["shape"], interface["typestr"]
    height, width, channels = shape if len(shape) == 3 else (*shape, 1) if len(shape) == 2 else (0, 0, 0)
    if kind != "|u1" or channels not in PNG_COLOR_TYPES or not height * width:
        raise UnusablePhoto(f"the array has shape {shape} and type {kind[1:]}; {EXPECTED_ARRAY}")
    pixels, row = array.tobytes(), width * channels
    rows = b"".join(b"\0" + pixels[start : start + row] for start in range(0, height * row, row))
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
