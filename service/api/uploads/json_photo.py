"""The photo in a JSON body, decoded piece by piece.

Parsing megabytes of base64 in one call would hold the interpreter, and so the event loop, for a second, and the
whole text in memory several times. No call here handles more than a piece, and only body and photo are held.
"""

import codecs
import json
import secrets
from collections.abc import Iterator
from typing import Any

from service.api.uploads.base64_text import decode_base64, pieces_of
from service.errors import BrokenUpload

FIELD = "image"
"""Name of the JSON key, and of the multipart field."""

MAX_JSON_VALUES = 1000
"""Values in a JSON body; empty lists and objects take twenty times their length in memory."""

MAX_JSON_QUOTES = 4 * MAX_JSON_VALUES
"""Quotation marks in a JSON body: two each for the key and the text of a value."""

MAX_REST_BYTES = 64 * 1024
"""Bytes of a JSON body outside of its long strings."""

LONG_BYTES = 1024
"""Longer strings are cut out of the body before it is parsed."""

MAX_NAMED_KEYS, MAX_NAMED_LENGTH = 10, 50
"""How many keys an error names, and how many characters of each."""

JSON_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def photo_from_json(body: bytes) -> bytes:
    """Decode the photo in ``{"image": "<base64>"}``; see ``base64_text`` for what is read.

    Raises:
        BrokenUpload: The body is not a JSON object with base64 text under ``image``.
    """
    _check_counts(body)
    strings: dict[str, memoryview] = {}
    content = _parse(_rest(body, strings))
    if not isinstance(content, dict):
        raise BrokenUpload(
            f'the JSON body must be an object {{"{FIELD}": "<base64>"}}, and it is {_type_of(content)}'
        )
    if FIELD not in content:
        keys = [repr(_text(key)[:MAX_NAMED_LENGTH]) for key in [*content][:MAX_NAMED_KEYS]]
        found = f"it has {', '.join(keys)}" if keys else "it is empty"
        raise BrokenUpload(f"the JSON object has no key {FIELD!r}; {found}")
    text, what = content[FIELD], f"the value of {FIELD!r}"
    if not isinstance(text, str):
        raise BrokenUpload(f"{what} must be base64 text, and it is {_type_of(text)}")
    pieces = _unescaped(strings[text]) if text in strings else iter([text])
    photo = decode_base64((piece.encode("latin-1", "replace") for piece in pieces), what)
    if not photo:
        raise BrokenUpload(f"{what} is empty")
    return photo


def url_from_json(body: bytes) -> str | None:
    """Return the URL in ``{"url": "<URL>"}``; None if the body is anything else.

    Raises:
        BrokenUpload: There is a photo beside it, or it is no text.
    """
    if len(body) > MAX_REST_BYTES or b'"url"' not in body:
        return None
    _check_counts(body)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "url" not in content:
        return None
    if FIELD in content:
        raise BrokenUpload(f"the JSON object has both {FIELD!r} and 'url'; send one of them")
    if not isinstance(content["url"], str):
        raise BrokenUpload(f"the value of 'url' must be text, and it is {_type_of(content['url'])}")
    return content["url"]


def _type_of(value: Any) -> str:
    return JSON_TYPES.get(type(value), "a number")


def _text(latin: str) -> str:
    """Return a text of the body, which was read as Latin-1, as what it is."""
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")


def _check_counts(body: bytes) -> None:
    values = quotes = 0
    for piece in pieces_of(body):
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
    for further in pieces_of(string):
        piece = kept + further
        # An escape sequence has at most six bytes. One that the end may have cut is left to the next piece.
        cut = piece.find(b"\\", len(piece) - 6)
        while cut >= 0 and piece[cut : cut + 2] == b"\\\\":
            cut = piece.find(b"\\", cut + 2)
        kept = piece[cut:] if cut >= 0 else b""
        yield _parse(b'"' + piece[: len(piece) - len(kept)] + b'"')
    if kept:
        yield _parse(b'"' + kept + b'"')
