"""A photo in base64, in the dialects that clients write, decoded piece by piece.

Read are the standard and the URL-safe alphabet (RFC 4648), with and without padding and line breaks, ``data:``
URLs (RFC 2397), and all of them percent-encoded.
"""

import base64
import binascii
import io
import re
import time
from collections.abc import Iterator
from itertools import chain
from urllib.parse import unquote_to_bytes

from service.errors import BrokenUpload

PIECE_BYTES = 64 * 1024
"""Bytes that are handled in one call."""

WHITESPACE = b" \t\n\r\f\v"

STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")

PREFIX_BYTES = 1024
"""How much of a text is looked at before it is decoded. The media type of a ``data:`` URL is shorter."""

DATA_URL = re.compile(rb"data:([^,]*?)(;\s*base64\s*)?,", re.IGNORECASE)
URL = re.compile(rb"(?:[a-z][a-z0-9+.-]*://|blob:|file:|www\.)", re.IGNORECASE)
FILE_NAME = re.compile(rb"(?:@|~/|\.{1,2}/)?[^\0\r\n]*\.[a-z0-9]{2,5}|[a-z]:\\[^\r\n]*", re.IGNORECASE)

SHOWN_BYTES = 100


def pieces_of(text: bytes | memoryview) -> Iterator[bytes]:
    """Yield a text in pieces, between which the event loop may have the interpreter."""
    view = memoryview(text)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
        time.sleep(0)  # now, rather than after its switch interval


def decode_base64(pieces: Iterator[bytes], what: str) -> bytes:
    """Decode the text that the pieces make together.

    Args:
        pieces: The text; see ``pieces_of``.
        what: What errors call the text, such as ``the value of 'image'``.

    Raises:
        BrokenUpload: It is not base64. A URL or a file name is called that.
    """
    head, rest = _head(_percent_decoded(pieces))
    data_url = DATA_URL.match(head)
    if data_url is None:
        _check_start(head, what)
        return _decode(chain((head,), rest), what)
    rest = chain((head[data_url.end() :],), rest)
    return _decode(rest, what) if data_url[2] else b"".join(rest)


def _percent_decoded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decode %XX, which no form of base64 contains otherwise."""
    kept = b""
    for piece in pieces:
        data = kept + piece
        cut = data.find(b"%", max(0, len(data) - 2))  # what the end may have cut is left to the next piece
        cut = len(data) if cut < 0 else cut
        kept = data[cut:]
        yield unquote_to_bytes(data[:cut])
    yield kept


def _head(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes after any blanks, at least ``PREFIX_BYTES`` if there are so many, and the rest."""
    head = b""
    for piece in pieces:
        head = (head + piece).lstrip(WHITESPACE)
        if len(head) >= PREFIX_BYTES:
            break
    return head, pieces


def _check_start(head: bytes, what: str) -> None:
    shown = repr(head[:SHOWN_BYTES].decode("utf-8", "replace"))
    if URL.match(head):
        raise BrokenUpload(
            f"{what} is a URL ({shown}), which is not fetched; the photo itself is needed, in base64"
        )
    if len(head) < PREFIX_BYTES and FILE_NAME.fullmatch(head.strip()):
        raise BrokenUpload(
            f"{what} is the name of a file ({shown}), which the service cannot read; "
            "its content is needed, in base64"
        )
    if head.startswith((b"b'", b'b"')):
        raise BrokenUpload(f"{what} is not base64, but Python's notation of bytes; decode() them to text first")
    if head.startswith(b"[object"):
        raise BrokenUpload(f"{what} is not base64, but {shown}, the name of an object")


def _decode(pieces: Iterator[bytes], what: str) -> bytes:
    photo, kept, padding = io.BytesIO(), b"", 0
    for piece in pieces:
        text = piece.translate(STANDARD_ALPHABET, WHITESPACE)
        data = text.rstrip(b"=")
        if b"=" in data or (data and padding):
            raise BrokenUpload(f"{what} is not base64: it goes on after its padding")
        padding += len(text) - len(data)
        data = kept + data
        whole = len(data) // 4 * 4
        kept = data[whole:]
        photo.write(_decode_whole(data[:whole], what))
    if padding > 2 or len(kept) == 1:
        wrong = f"it ends in {padding} '='" if padding > 2 else "it has one character too many, or was cut off"
        raise BrokenUpload(f"{what} is not base64: {wrong}")
    if kept:
        photo.write(_decode_whole(kept + b"=" * (4 - len(kept)), what))
    return photo.getvalue()


def _decode_whole(data: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise BrokenUpload(f"{what} is not base64: it contains {_foreign(data)}") from None


def _foreign(data: bytes) -> str:
    """Name the first characters that are not in the alphabet."""
    found = re.search(rb"[^A-Za-z0-9+/]{1,4}", data)
    return repr(found[0].decode("utf-8", "replace")) if found else "something else"
