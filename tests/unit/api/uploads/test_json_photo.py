"""Base64 in JSON: the same answers as from the standard library, in bounded memory and in short calls."""

import base64
import contextlib
import json
import re
import string
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from unittest.mock import patch
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.uploads import base64_text, json_photo
from service.api.uploads.base64_text import PIECE_BYTES
from service.api.uploads.json_photo import photo_from_json
from service.errors import BrokenUpload

PHOTO = bytes(range(256)) * 1500
TEXT = base64.b64encode(PHOTO).decode()
MIB = 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"image": TEXT}),
        json.dumps({"image": TEXT}).replace("/", "\\/"),
        json.dumps({"image": "".join(f"\\u{ord(letter):04x}" for letter in TEXT)}).replace("\\\\", "\\"),
        json.dumps({"image": "\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76))}),
        json.dumps({"image": f"data:image/jpeg;base64,{TEXT}"}),
        json.dumps({"note": "x" * 100_000 + '\\"', "image": TEXT, "more": ["y" * 5000, "\\"]}, indent=4),
        "\ufeff" + json.dumps({"image": " " * PIECE_BYTES + TEXT + " " * PIECE_BYTES}),
    ],
    ids=["plain", "escaped slashes", "escaped throughout", "lines", "data URL", "other long strings", "blanks"],
)
def test_reads_photos_of_several_pieces(body: str) -> None:
    assert photo_from_json(body.encode()) == PHOTO


@pytest.mark.parametrize(
    "body",
    [
        b'{"image": "' + TEXT.encode() + b"AA==" + b" " * PIECE_BYTES + b"AA==" + b'"}',
        b'{"image": "' + TEXT.encode() + b'A"}',
        b'{"image": "' + TEXT.encode() + b'%zz"}',
        b'{"image": "' + TEXT.encode() + b"\xff" * 4 + b'"}',
        b'{"image": "' + TEXT.encode(),
        b'{"image": "' + TEXT.encode() + b'\\"}',
        b'{"image": "' + b"\\" * 200_000 + b'"}',
        b'{"image": "' + b"\n" * 200_000 + TEXT.encode() + b'"}',
        b" " * MIB + b"{}",
        b'"' * MIB,
        b'{"image": "AAAA", ' + b'"": 1, ' * 2000 + b'"b": 1}',
    ],
)
def test_refuses_what_is_wrong_in_any_piece(body: bytes) -> None:
    with pytest.raises(BrokenUpload):
        photo_from_json(body)


# From a list of letters, because Hypothesis takes two seconds for the first text of any letters.
LETTERS = st.text(string.printable + "\0\x7f\u00e9\u2028\u4e2d\U0001f600", max_size=40)


@given(st.dictionaries(st.sampled_from(["image", "other"]), LETTERS | st.binary(max_size=40)))
def test_agrees_with_the_standard_library(values: dict[str, str | bytes]) -> None:
    content = {
        key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for key, value in values.items()
    }
    try:
        text = "".join(unquote(content["image"]).split())
        expected = base64.urlsafe_b64decode(
            (text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)).encode("ascii")
        )
        assert re.fullmatch(r"[\w/+-]*={0,2}", text, re.ASCII)
    except (KeyError, ValueError, AssertionError):
        expected = b""
    photo = b""
    with (
        patch.object(base64_text, "PIECE_BYTES", 8),
        patch.object(json_photo, "LONG_BYTES", 5),
        contextlib.suppress(BrokenUpload),
    ):
        photo = photo_from_json(json.dumps(content).encode())
    assert photo == expected or unquote(content["image"]).lstrip().lower().startswith("data:")


HOSTILE = {
    "pairs": b'{"image":"' + b"AA " * (8 * MIB // 3) + b'"}',
    "blanks": b'{"image":"' + b" " * 8 * MIB + b'AAAA"}',
    "escapes": b'{"image":"' + b"\\u0041" * (8 * MIB // 6) + b'"}',
    "quotes": b'{"image":"' + b'\\"' * (4 * MIB) + b'"}',
    "backslashes": b'{"image":"' + b"\\\\" * (4 * MIB) + b'"}',
    "plain": b'{"image":"' + b"A" * 8 * MIB + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_holds_neither_much_memory_nor_the_interpreter(name: str) -> None:
    body = HOSTILE[name]
    tracemalloc.start()
    try:
        read_or_refuse(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(body) + 2 * MIB  # twice the photo for a moment, when its buffer grows
    # In pieces 0.001 s of CPU time, in one call 0.01 to 0.07 s. The shortest of three runs counts, because a
    # virtual machine adds the time in which its host runs another one.
    assert min(longest_call_s(partial(read_or_refuse, body)) for _ in range(3)) < 0.01


def longest_call_s(run: Callable[[], None]) -> float:
    """Return the CPU seconds of the longest call of a C function, in which no other thread has the interpreter."""
    longest, began = 0.0, 0.0

    def watch(_frame: object, event: str, _function: object) -> None:
        nonlocal longest, began
        if event == "c_call":
            began = time.thread_time()
        elif event == "c_return":
            longest = max(longest, time.thread_time() - began)

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return longest


def read_or_refuse(body: bytes) -> None:
    with contextlib.suppress(BrokenUpload):
        photo_from_json(body)
