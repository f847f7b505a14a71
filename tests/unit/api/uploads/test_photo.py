import asyncio
import base64
import contextlib
import json
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from starlette.requests import Request

from service.api.uploads.json_photo import photo_from_json
from service.api.uploads.photo import MAX_PARTS, read_photo
from service.budget import FairBudget, mebibytes
from service.errors import BrokenUpload, Overloaded, SlowUpload, UnsupportedUpload, UploadTooLarge

LIMIT = 100_000


class Body:
    """A request body as the server hands it over; counts the bytes taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = iter(chunks)
        self.taken = 0

    async def receive(self) -> dict[str, object]:
        chunk = next(self.chunks, None)
        if chunk is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        self.taken += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}


def budget(limit: int) -> FairBudget:
    return FairBudget(limit, what="memory for uploads", setting="TANDEM_MAX_HELD_BYTES", show=mebibytes)


def read(
    body: bytes | Body,
    content_type: str | None,
    *,
    length: int | None = None,
    encoding: str | None = None,
    memory: FairBudget | None = None,
) -> bytes:
    source = body if isinstance(body, Body) else Body([body[:7], body[7:]])
    headers = [(b"content-type", content_type.encode())] if content_type else []
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    if encoding is not None:
        headers.append((b"content-encoding", encoding.encode()))
    request = Request({"type": "http", "method": "POST", "headers": headers}, source.receive)
    with (memory or budget(10 * LIMIT)).part("a") as part:
        return asyncio.run(read_photo(request, part, max_bytes=LIMIT, timeout_s=60))


def form(*parts: tuple[str, bytes], boundary: str = "frontier") -> bytes:
    body = b""
    for name, content in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def text_form(text: str, head: str = "") -> bytes:
    """A form whose photo is a text, as a field without a file name."""
    return form(("image", text.encode())).replace(b'; filename="x.jpg"', head.encode())


FORM = "multipart/form-data; boundary=frontier"
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)) * 9
TEXT = base64.b64encode(JPEG).decode()
OTHER_TYPES = (
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
    "application/json",
    "multipart/form-data",
    FORM,
    "image/png",
    "text/plain",
    "*/*",
    None,
)


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_bytes_that_start_like_a_photo_are_one_whatever_their_type(kind: str | None) -> None:
    assert read(JPEG, kind) == JPEG


@pytest.mark.parametrize("kind", ["text/json", "application/vnd.api+json", "application/json;charset=utf-8"])
def test_other_types_of_json_are_json(kind: str) -> None:
    assert read(json.dumps({"image": TEXT}).encode(), kind) == JPEG


def test_a_form_is_read_without_its_boundary_in_the_type() -> None:
    assert read(form(("image", JPEG)), "multipart/form-data") == JPEG


@pytest.mark.parametrize("name", ["images", "image[]", "image[0]", "images[]", "images[photo]"])
def test_the_field_may_be_written_as_a_list(name: str) -> None:
    assert read(form((name, JPEG)), FORM) == JPEG


@pytest.mark.parametrize(
    "body",
    [
        form(("image", TEXT.encode())).replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: BASE64\r\n\r\n"),
        form(("image", f"data:image/jpeg;base64,{TEXT}".encode())),
        text_form(f"data:image/jpeg;base64,{TEXT}"),
        text_form(TEXT),
        text_form(TEXT, "\r\nContent-Type: text/plain"),
    ],
    ids=["transfer encoding", "data URL as a file", "data URL", "text", "text with a type"],
)
def test_base64_in_a_form_is_decoded(body: bytes) -> None:
    assert read(body, FORM) == JPEG
    with pytest.raises(Overloaded):
        read(body, FORM, memory=budget(len(body) + len(JPEG) - 1))


def test_another_transfer_encoding_is_named() -> None:
    body = form(("image", JPEG)).replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
    with pytest.raises(UnsupportedUpload, match="'quoted-printable'; send it as binary or base64"):
        read(body, FORM)


@pytest.mark.parametrize(
    ("body", "looks"),
    [
        (b"PK\x03\x04", "a ZIP archive; archives of photos go to POST /v1/emotions/batch"),
        (b"%PDF-1.7", "a PDF document"),
        (b'{"image": "AAAA"}', "JSON, which needs Content-Type: application/json"),
        (form(("image", JPEG)), "a multipart form, but Content-Type is not multipart/form-data"),
        (b"image=AAAA", "a URL-encoded form"),
        (TEXT.encode(), "a photo in base64"),
        (b"https://a.example/b.jpg", "a URL"),
        (JPEG.decode("utf-8", "replace").encode(), "binary data that was decoded as text"),
        (b"\x89PNG\x1a\0\0\0\rIHDR", "a PNG whose line breaks were converted"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    ],
)
@pytest.mark.parametrize("kind", ["application/octet-stream", "application/x-www-form-urlencoded", None])
def test_what_is_no_photo_is_called_what_it_looks_like(body: bytes, looks: str, kind: str | None) -> None:
    with pytest.raises(UnsupportedUpload) as caught:
        read(body, kind)
    assert f"it looks like {looks}" in caught.value.detail
    assert "; send the bytes of a file in JPEG" in caught.value.detail


def test_reads_a_raw_body() -> None:
    assert read(b"the photo", "image/jpeg") == b"the photo"
    assert read(b"the photo", "image/heic; x=y") == b"the photo"


def test_reads_a_form() -> None:
    assert read(form(("image", b"the photo")), FORM) == b"the photo"


def test_reads_the_photo_among_other_fields() -> None:
    assert read(form(("note", b"x" * 999), ("image", b"the photo"), ("b", b"")), FORM) == b"the photo"


@given(st.binary(min_size=1, max_size=300), st.integers(1, 50))
def test_any_bytes_come_out_of_a_form_as_they_were(content: bytes, size: int) -> None:
    assume(not content.lower().startswith((b"data:", b"data%3a")))
    body = form(("image", content))
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert read(Body(chunks), FORM) == content


def test_reads_a_field_without_a_file_name() -> None:
    body = form(("image", b"the \xff photo")).replace(b'; filename="x.jpg"', b"")
    assert read(body, FORM) == b"the \xff photo"


def test_reads_json() -> None:
    text = base64.b64encode(b"the photo").decode()
    assert read(json.dumps({"image": text}).encode(), "application/json; charset=utf-8") == b"the photo"
    assert photo_from_json(json.dumps({"image": f"data:image/jpeg;base64,{text}"}).encode()) == b"the photo"
    assert photo_from_json(json.dumps({"image": text[:4] + "\n" + text[4:]}).encode()) == b"the photo"


@pytest.mark.parametrize(
    ("body", "kind", "named"),
    [
        (b"", "image/jpeg", "empty"),
        (b"", None, "no body"),
        (b"", "application/json", "empty"),
        (b"", FORM, "cut off"),
        (form(("image", b"the photo"))[:-20], FORM, "cut off"),
        (
            b"no form at all",
            FORM,
            "no line '--frontier', which the boundary in Content-Type says; it begins with 'no",
        ),
        (form(("image", b"x"), boundary="b"), FORM, "it begins with '--b'"),
        (b"\x1f\x8b\0\0", FORM, "it looks like gzip data"),
        (b"the photo", "multipart/form-data", "boundary"),
        (form(("image", b"x")), f"multipart/form-data; boundary={'b' * 300}", "boundary"),
        (form(("photo", b"x"), ("note", b"")), FORM, "'photo', 'note'"),
        (form(), FORM, "'image'"),
        (
            form(("image", b"x"), ("image", b"y")),
            FORM,
            "2 fields 'image'; send one photo per request, or all to /v1/emotions/batch",
        ),
        (form(("image", b"")), FORM, "'image' is empty"),
        (form(*[("x", b"")] * (MAX_PARTS + 1)), FORM, f"the limit is {MAX_PARTS}"),
        (b"{", "application/json", "not JSON"),
        (b"[" * 1000, "application/json", "not JSON"),
        (b"[" * 1001, "application/json", "the limit is 1,000"),
        (b'{"image": [' + b"{}," * 10_000 + b"{}]}", "application/json", "the limit is 1,000"),
        (b'{"image": ' + b"9" * 5000 + b"}", "application/json", "not JSON"),
        (b"\xff\xfe", "application/json", "not JSON"),
        (b"[]", "application/json", "it is an array"),
        (b'"AAAA"', "application/json", "it is a string"),
        (b"{}", "application/json", "it is empty"),
        ('{"bild": "", "größe": 2}'.encode(), "application/json", "no key 'image'; it has 'bild', 'größe'"),
        (b'{"image": 7}', "application/json", "it is a number"),
        (b'{"image": {"data": []}}', "application/json", "it is an object"),
        (b'{"image": null}', "application/json", "it is null"),
        (b'{"image": "https://a.example/b.jpg"}', "application/json", "is a URL"),
        (text_form("https://a.example/b.jpg"), FORM, "field 'image' is a URL"),
        (text_form("photo.jpg"), FORM, "field 'image' is the name of a file"),
        (b'{"image": ""}', "application/json", "'image' is empty"),
        (b'{"image": "@@@@"}', "application/json", "'image' is not base64"),
        ('{"image": "ä"}'.encode(), "application/json", "'image' is not base64"),
        (b'{"image": "data:image/png;base64"}', "application/json", "'image' is not base64"),
    ],
)
def test_names_what_is_broken(body: bytes, kind: str | None, named: str) -> None:
    with pytest.raises(BrokenUpload) as caught:
        read(body, kind)
    assert named in caught.value.detail


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_told_what_is_accepted(kind: str | None) -> None:
    with pytest.raises(UnsupportedUpload, match=r"image/jpeg.*multipart/form-data.*application/json"):
        read(b"the photo", kind, length=9)


def zeros(prefix: bytes = b"") -> Iterator[bytes]:
    """A body that never ends."""
    yield prefix
    while True:
        yield bytes(10_000)


@pytest.mark.parametrize(
    ("kind", "prefix", "most"),
    [
        ("image/jpeg", b"", LIMIT + 10_000),
        (FORM, form(("image", b""))[:-16], LIMIT + 20_000),
        (FORM, form(("other", b""))[:-16], LIMIT + 80_000),
        ("application/json", b'{"image": "', LIMIT * 4 // 3 + 80_000),
    ],
)
def test_stops_reading_at_the_limit(kind: str, prefix: bytes, most: int) -> None:
    body = Body(zeros(prefix))
    with pytest.raises(UploadTooLarge, match=r"0\.1 MiB \(TANDEM_MAX_UPLOAD_BYTES\)"):
        read(body, kind)
    assert body.taken <= most


def test_reads_nothing_of_a_body_that_announces_too_much() -> None:
    body = Body(zeros())
    with pytest.raises(UploadTooLarge, match=r"25\.0 MiB; the limit is 0\.1 MiB \(TANDEM_MAX_UPLOAD_BYTES\)"):
        read(body, "image/jpeg", length=25 * 1024 * 1024)
    assert body.taken == 0


def test_a_photo_at_the_limit_is_accepted_in_every_form() -> None:
    photo = bytes(LIMIT)
    assert read(photo, "image/png", length=LIMIT) == photo
    assert read(form(("image", photo)), FORM) == photo
    assert read(json.dumps({"image": base64.b64encode(photo).decode()}).encode(), "application/json") == photo


@pytest.mark.parametrize("kind", ["image/png", FORM, "application/json"])
def test_one_byte_more_is_refused_in_every_form(kind: str) -> None:
    photo = bytes(LIMIT + 1)
    bodies = {
        "image/png": photo,
        FORM: form(("image", photo)),
        "application/json": json.dumps({"image": base64.b64encode(photo).decode()}).encode(),
    }
    with pytest.raises(UploadTooLarge):
        read(bodies[kind], kind)


def test_a_body_that_does_not_arrive_times_out() -> None:
    async def never() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}, never)
    with (
        budget(LIMIT).part("a") as part,
        pytest.raises(SlowUpload, match=r"0\.05 s \(TANDEM_UPLOAD_TIMEOUT_S\)"),
    ):
        asyncio.run(read_photo(request, part, max_bytes=LIMIT, timeout_s=0.05))


@pytest.mark.parametrize("kind", ["image/jpeg", FORM])
def test_no_more_memory_is_used_than_the_budget_has(kind: str) -> None:
    memory = budget(LIMIT)
    with memory.part("b") as other, memory.part("c") as another:
        other.reserve(LIMIT // 3)
        another.reserve(LIMIT // 3)
        body = Body(zeros(b"" if kind == "image/jpeg" else form(("image", b""))[:-16]))
        with pytest.raises(Overloaded, match=r"MiB in use.*\(TANDEM_MAX_HELD_BYTES\)"):
            read(body, kind, memory=memory)
        assert LIMIT // 9 < body.taken <= LIMIT * 2 // 9 + 10_000
        assert memory.used == LIMIT // 3 * 2
    assert memory.used == 0


def test_nothing_is_read_of_an_upload_that_announces_more_than_the_budget_has_left() -> None:
    body = Body(zeros())
    with pytest.raises(Overloaded):
        read(body, "image/jpeg", length=50_000, memory=budget(50_000 * 3 // 2 - 1))
    assert body.taken == 0


def test_base64_counts_for_each_of_its_copies() -> None:
    body = json.dumps({"image": base64.b64encode(bytes(60_000)).decode()}).encode()
    assert read(body, "application/json", memory=budget(len(body) * 21 // 8 + 2)) == bytes(60_000)
    with pytest.raises(Overloaded):
        read(body, "application/json", memory=budget(len(body) * 21 // 8 - 2))


@pytest.mark.parametrize("kind", ["image/jpeg", FORM, "application/json"])
def test_a_compressed_body_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedUpload, match="gzip"):
        read(b"x", kind, encoding="gzip")
    assert read(b"x", "image/jpeg", encoding="identity") == b"x"


@given(st.binary(max_size=200))
def test_any_json_body_is_read_or_refused_with_our_error(body: bytes) -> None:
    with contextlib.suppress(BrokenUpload):
        assert photo_from_json(body)
