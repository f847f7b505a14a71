import gc
import weakref

import pytest

from service.api.uploads.multipart import MAX_PREAMBLE_BYTES, FormParser
from service.errors import BrokenUpload


def parser(*, max_parts: int = 5, max_file_bytes: int = 100) -> FormParser:
    return FormParser(b"frontier", field="images", max_parts=max_parts, max_file_bytes=max_file_bytes)


def part(disposition: str, content: bytes) -> bytes:
    return f"--frontier\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


END = b"--frontier--\r\n"


def test_files_come_in_order_with_their_names() -> None:
    form = parser()
    form.feed(part('name="images"; filename="ä.jpg"', b"one") + part('name="note"', b"x"))
    form.feed(part('name="images"', b"two") + END)
    assert [(file.name, file.size, file.content.getvalue()) for file in form.finish()] == [
        ("ä.jpg", 3, b"one"),
        ("", 3, b"two"),
    ]


def test_a_file_over_the_limit_is_counted_but_not_kept_and_the_others_are() -> None:
    form = parser(max_file_bytes=10)
    form.feed(part('name="images"', b"x" * 6)[:-2])
    form.feed(b"x" * 5)
    large = form.files[0]
    assert (large.size, large.content.getvalue()) == (11, b"")
    form.feed(b"\r\n" + part('name="images"', b"x" * 10) + END)
    assert [(file.size, len(file.content.getvalue())) for file in form.finish()] == [(11, 0), (10, 10)]


def test_the_number_of_parts_is_limited_while_parsing() -> None:
    form = parser(max_parts=3)
    form.feed(part('name="images"', b"") + part('name="a"', b"") + part('name="images"', b""))
    with pytest.raises(BrokenUpload, match="the limit is 3"):
        form.feed(part('name="a"', b""))


def test_the_size_of_headers_is_limited_while_parsing() -> None:
    form = parser()
    form.feed(b"--frontier\r\nX-Long: " + b"x" * 1000)
    with pytest.raises(BrokenUpload):
        form.feed(b"x" * 10_000)


def test_a_form_that_is_cut_off_is_refused() -> None:
    form = parser()
    form.feed(part('name="images"', b"one") + part('name="images"', b"two"))
    with pytest.raises(BrokenUpload):
        form.finish()


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("preamble", [b"\r\n", b"This is a multi-part message.\r\n", b"--frontie\n\n" * 50])
def test_a_preamble_is_skipped(preamble: bytes, size: int) -> None:
    form, body = parser(), preamble + part('name="images"', b"one\n--frontier") + END
    for start in range(0, len(body), size):
        form.feed(body[start : start + size])
    assert [file.content.getvalue() for file in form.finish()] == [b"one\n--frontier"]


def test_a_preamble_is_limited() -> None:
    form = parser()
    form.feed(b"x\r\n" * (MAX_PREAMBLE_BYTES // 3))
    with pytest.raises(BrokenUpload, match=r"no line '--frontier'.*begins with 'x"):
        form.feed(b"xx")


def test_nothing_of_a_closed_form_waits_for_the_garbage_collector() -> None:
    gc.disable()
    try:
        form = parser()
        form.feed(part('name="images"', b"one") + END)
        form.close()
        left = weakref.ref(form)
        del form
        assert left() is None
    finally:
        gc.enable()
