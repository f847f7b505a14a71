"""The dialects of base64 that clients write, and what they write instead."""

import base64
from urllib.parse import quote

import pytest

from service.api.uploads.base64_text import decode_base64, pieces_of
from service.errors import BrokenUpload

PHOTO = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 400 + b"\xfb\xff"
TEXT = base64.b64encode(PHOTO).decode()
URL_SAFE = base64.urlsafe_b64encode(PHOTO).decode()
LINES = "\r\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76))

DIALECTS: dict[str, str] = {
    "standard": TEXT,
    "URL-safe": URL_SAFE,
    "without padding": TEXT.rstrip("="),
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "lines": LINES,
    "lines percent-encoded": quote(LINES),
    "data URL": f"data:image/jpeg;base64,{TEXT}",
    "data URL in capitals": f"DATA:IMAGE/JPEG;BASE64,{TEXT}",
    "data URL without a type": f"data:;base64,{TEXT}",
    "data URL with parameters": f"data:image/jpeg;name=a.jpg;charset=utf-8;base64,{TEXT}",
    "data URL with percent-encoded base64": f"data:image/jpeg;base64,{quote(TEXT, safe='')}",
    "data URL encoded as a whole": quote(f"data:image/jpeg;base64,{TEXT}", safe=""),
    "data URL with lines": f"data:image/jpeg;base64,\n{LINES}\n",
    "data URL without base64": f"data:image/jpeg,{quote(PHOTO)}",
    "blanks before a data URL": f"{' ' * 100_000}data:image/jpeg;base64,{TEXT}",
}


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("size", [997, 10_000_000])
def test_reads_every_dialect_in_pieces_of_any_size(text: str, size: int) -> None:
    data = text.encode()
    assert decode_base64((data[at : at + size] for at in range(0, len(data), size)), "it") == PHOTO


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("https://example.com/a.jpg", r"the text is a URL \('https://example.com/a.jpg'\), which is not fetched"),
        ("s3://bucket/key", "is a URL"),
        ("blob:https://example.com/550e8400", "is a URL"),
        ("FILE:///home/me/a.png", "is a URL"),
        ("www.example.com/a.jpg", "is a URL"),
        ("photo.jpg", r"the name of a file \('photo.jpg'\)"),
        ("/home/me/my photos/ä.heic", "the name of a file"),
        (r"C:\Users\me\a.png", "the name of a file"),
        ("@photo.jpg", "the name of a file"),
        ("b'/9j/4AAQ'", "Python's notation"),
        ("[object Object]", "the name of an object"),
        ("data:image/jpeg;base64", "not base64"),
        ("data:image/jpeg;base64,@@@@", "contains '@@@@'"),
        ("/9j/4AA*", r"contains '\*'"),
        ("AAAAA", "one character too many"),
        ("AAA====", "ends in 4 '='"),
        ("AA==AA==", "goes on after its padding"),
    ],
)
def test_says_what_a_text_is_instead(text: str, named: str) -> None:
    with pytest.raises(BrokenUpload, match=named):
        decode_base64(pieces_of(text.encode()), "the text")
