"""The photo in a JSON body, decoded piece by piece.

Parsing megabytes of base64 in one call would hold the interpreter, and so the event loop, for a second, and the
whole text in memory several times. No call here handles more than a piece, and only body and photo are held.
"""

import base64
import binascii
import codecs
import io
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from service.errors import BrokenUpload

FIELD = "image"
"""Name of the JSON key, and of the multipart field."""

MAX_JSON_VALUES = 1000
"""Values in a JSON body; empty lists and objects take twenty times their length in memory."""

MAX_JSON_QUOTES = 4 * MAX_JSON_VALUES
"""Quotation marks in a JSON body: two each for the key and the text of a value."""

MAX_REST_BYTES = 64 * 1024
"""Bytes of a JSON body outside of its long strings."""

PIECE_BYTES = 64 * 1024
"""Bytes that are handled in one call."""

LONG_BYTES = 1024
"""Longer strings are cut out of the body before it is parsed."""

WHITESPACE = b" \t\n\r\f\v"


def photo_from_json(body: bytes) -> bytes:
    """Decode the photo in ``{"image": "<base64>"}``; the prefix of a ``data:`` URL is allowed.

    Raises:
        BrokenUpload: The body is not a JSON object with base64 text under ``image``.
    """
    _check_counts(body)
    strings: dict[str, memoryview] = {}
    content = _parse(_rest(body, strings))
    if not isinstance(content, dict):
        raise BrokenUpload(f'the JSON body must be an object {{"{FIELD}": "<base64>"}}')
    if FIELD not in content:
        raise BrokenUpload(f"the JSON object has no key {FIELD!r}")
    text = content[FIELD]
    if not isinstance(text, str):
        raise BrokenUpload(f"the value of {FIELD!r} must be base64 text, not {type(text).__name__}")
    photo = _decode(_unescaped(strings[text]) if text in strings else iter([text]))
    if not photo:
        raise BrokenUpload(f"the value of {FIELD!r} is empty")
    return photo


def _pieces(data: bytes | memoryview) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
        time.sleep(0)  # lets the event loop have the interpreter now, rather than after its switch interval


def _check_counts(body: bytes) -> None:
    values = quotes = 0
    for piece in _pieces(body):
        values += sum(map(piece.count, (b",", b"[", b"{")))
        quotes += piece.count(b'"')
        if values > MAX_JSON_VALUES or quotes > MAX_JSON_QUOTES:
            raise BrokenUpload(f"the JSON body has too many values; the limit is {MAX_JSON_VALUES:,}")


def _rest(body: bytes, strings: dict[str, memoryview]) -> bytes:
    """Return the body with a name in place of each long string, whose contents are put into ``strings``."""
    view, mark = memoryview(body), secrets.token_hex(16)
    rest, position = bytearray(), len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    while True:
        start = body.find(b'"', position) + 1
        end = _end_of_string(body, start) if start else -1
        upto = end if start and 0 <= end - start <= LONG_BYTES else start or len(body)
        if len(rest) + upto - position > MAX_REST_BYTES:
            raise BrokenUpload(f"the JSON body has more than {MAX_REST_BYTES:,} bytes in addition to its photo")
        rest += view[position:upto]
        if not start or end < 0:
            return bytes(rest)
        if upto == start:
            name = f"{mark}{len(strings)}"
            strings[name] = view[start:end]
            rest += name.encode()
        rest += b'"'
        position = end + 1


def _end_of_string(body: bytes, start: int) -> int:
    """Return where the closing quotation mark is, or -1: the first before which there is no odd backslash."""
    end = body.find(b'"', start)
    while end > 0:
        before = end
        while before > start and body[before - 1] == ord("\\") and end - before < LONG_BYTES:
            before -= 1
        if (end - before) % 2 == 0:
            return end
        end = body.find(b'"', end + 1)
    return -1


def _parse(data: bytes) -> Any:
    try:
        # Latin-1 takes one byte per character whatever else is in the body. Base64 is ASCII in both encodings.
        return json.loads(data.decode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise BrokenUpload(f"the body is not JSON: {str(error)[:100]}") from None


def _unescaped(string: memoryview) -> Iterator[str]:
    """Yield the text of a JSON string, whose slashes may be escaped, in pieces."""
    kept = b""
    for further in _pieces(string):
        piece = kept + further
        # An escape sequence has at most six bytes. One that the end may have cut is left to the next piece.
        cut = piece.find(b"\\", len(piece) - 6)
        while cut >= 0 and piece[cut : cut + 2] == b"\\\\":
            cut = piece.find(b"\\", cut + 2)
        kept = piece[cut:] if cut >= 0 else b""
        yield _parse(b'"' + piece[: len(piece) - len(kept)] + b'"')
    if kept:
        yield _parse(b'"' + kept + b'"')


def _decode(pieces: Iterator[str]) -> bytes:
    """Decode base64, in which whitespace and the prefix of a ``data:`` URL are skipped."""
    photo, kept, is_first, is_padded = io.BytesIO(), b"", True, False
    for piece in pieces:
        text = piece
        if is_first and piece.startswith("data:"):
            head, comma, text = piece.partition(",")
            if not comma or not head.endswith(";base64"):
                raise BrokenUpload(f"the data: URL in {FIELD!r} is not base64")
        is_first = False
        try:
            data = kept + text.encode("ascii").translate(None, WHITESPACE)
            whole = len(data) // 4 * 4
            kept = data[whole:]
            if data and is_padded:
                raise BrokenUpload(f"the value of {FIELD!r} is not base64: it goes on after its padding")
            photo.write(base64.b64decode(data[:whole], validate=True))
            is_padded = is_padded or data[:whole].endswith(b"=")
        except (binascii.Error, ValueError) as error:
            raise BrokenUpload(f"the value of {FIELD!r} is not base64: {error}") from None
    if kept:
        raise BrokenUpload(f"the value of {FIELD!r} is not base64: its length is not a multiple of four")
    return photo.getvalue()
