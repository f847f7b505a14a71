"""Recognize what bytes are by their first ones, to read what is a photo and to say what something else is."""

import base64
import re
from typing import Final

PHOTO_FORMATS: Final = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
"""The formats that are read, as errors and documents name them."""

HEAD_BYTES: Final = 512
"""How many of the first bytes decide."""

BITMAP_HEADER_SIZES: Final = (12, 40, 52, 56, 64, 108, 124)
"""Sizes of the header that follows the file header of a BMP; "BM" alone may be the start of a text."""

HEVC_BRANDS: Final = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"))
AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
HEIF_BRANDS: Final = HEVC_BRANDS | AVIF_BRANDS | {b"mif1", b"msf1"}

PHOTO_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
BIG_TIFF_SIGNATURES: Final = (b"II+\0", b"MM\0+")

ZIP_SIGNATURES: Final = (b"PK\x03\x04", b"PK\x05\x06")

SIGNATURES: Final = (
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x89PNG", "a PNG whose line breaks were converted, so that it is damaged (with curl, use --data-binary)"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\1\0", "an icon"),
    (b"qoif", "a QOI image"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"gimp xcf", "a GIMP document"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"PK\x03\x04", "a ZIP archive; archives of photos go to POST /v1/emotions/batch"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
    (
        b"\xef\xbf\xbd",
        "binary data that was decoded as text, which destroys it: send the file's bytes as they are",
    ),
    (b"\xc3\xbf\xc3\x98", "a JPEG that was encoded as text: send the file's bytes as they are"),
    (b"\xc2\x89PNG", "a PNG that was encoded as text: send the file's bytes as they are"),
)

URL_SAFE_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")

BASE64_OF_PHOTOS: Final = (b"/9j/", b"_9j_", b"iVBORw0KGgo", b"UklGR", b"R0lGOD", b"SUkqA", b"TU0AK")

FORM_START: Final = re.compile(rb"--([^\r\n]{1,200})\r?\ncontent-(?:disposition|type)", re.IGNORECASE)

RIFF_KINDS: Final = {b"AVI ": "an AVI video", b"WAVE": "a WAV file"}

TEXT: Final = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*")


def is_photo(data: bytes) -> bool:
    """Whether these are the first bytes of a photo in one of ``PHOTO_FORMATS``."""
    return (
        data.startswith((*PHOTO_SIGNATURES, *BIG_TIFF_SIGNATURES))
        or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
        or (data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS)
        or (data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BITMAP_HEADER_SIZES)
    )


def is_photo_text(data: bytes) -> bool:
    """Whether these are the first bytes of a photo in base64, or of a ``data:`` URL."""
    if data[:7].lower().startswith((b"data:", b"data%3a")):
        return True
    text = data[:HEAD_BYTES].translate(URL_SAFE_TO_BASE64, b" \t\r\n")
    try:
        return is_photo(base64.b64decode(text[: len(text) // 4 * 4], validate=True))
    except ValueError:
        return False


def is_avif(data: bytes) -> bool:
    """Whether these are the first bytes of an AVIF: one of its brands says so, since HEIF may share the first."""
    brands = data[8 : min(HEAD_BYTES, int.from_bytes(data[:4]))]
    found = {brands[at : at + 4] for at in range(0, len(brands), 4) if at != 4}
    return data[4:8] == b"ftyp" and bool(found & AVIF_BRANDS) and not found & HEVC_BRANDS


def is_zip(data: bytes) -> bool:
    """Whether these are the first bytes of a ZIP archive."""
    return data.startswith(ZIP_SIGNATURES)


def form_boundary(data: bytes) -> bytes | None:
    """Return the boundary of a multipart form that starts with these bytes; None if it is no form."""
    start = FORM_START.match(data)
    return start[1] if start else None


def describe(data: bytes) -> str:
    """Say in a few words what bytes look like that are no photo, for an error; empty if they look like nothing."""
    head = data[:HEAD_BYTES]
    for signature, what in SIGNATURES:
        if head.startswith(signature):
            return what
    if head.startswith(b"RIFF"):
        return RIFF_KINDS.get(head[8:12], "a RIFF file")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "a video or sound in MP4 or QuickTime"
    if head and not head.strip(b"\0"):
        return "nothing but zeros"
    if form_boundary(head):
        return "a multipart form, but Content-Type is not multipart/form-data with its boundary"
    return _describe_text(head)


def _describe_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not text or not TEXT.fullmatch(text):
        return ""
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in text:
        return "an SVG drawing"
    if text.startswith(b"<?xml") or re.match(rb"<[a-z]", text):
        return "XML"
    if text.startswith((b"{", b"[")):
        return "JSON, which needs Content-Type: application/json"
    if text.startswith((b"data:", b"data%3a")):
        return "a data: URL"
    if re.match(rb"[a-z][a-z0-9+.-]*://", text):
        return "a URL"
    if text.startswith(tuple(start.lower() for start in BASE64_OF_PHOTOS)):
        return "a photo in base64, which belongs into JSON"
    if re.match(rb"[\w\[\]%.-]+=", text):
        return "a URL-encoded form; forms must be multipart/form-data (curl -F)"
    return "text"
