import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.uploads.zip_archive import MAX_DIRECTORY_BYTES, ZipArchive
from service.errors import (
    BrokenUpload,
    TandemError,
    TooManyPhotos,
    UnreadablePhoto,
    UnsupportedPhoto,
    UploadTooLarge,
)

LIMITS = {"max_photos": 5, "max_bytes": 10_000}


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_files_in_folders_and_skips_folders_and_hidden_files(method: int) -> None:
    files = {"a.jpg": b"one", "holiday/": b"", "holiday/b.jpg": b"two", "../../c.jpg": b"three"}
    hidden = {"__MACOSX/._a.jpg": b"x", "holiday/.DS_Store": b"x"}
    archive = ZipArchive(packed(files | hidden, method), **LIMITS)
    assert archive.names == ["a.jpg", "holiday/b.jpg", "../../c.jpg"]
    assert [archive.read(index, max_bytes=100) for index in range(3)] == [b"one", b"two", b"three"]


def test_skips_what_systems_add() -> None:
    added = ("Thumbs.db", "b/THUMBS.DB", "desktop.ini", "ehthumbs.db", "Icon\r", "b\\Desktop.ini", "@eaDir/a.jpg")
    archive = ZipArchive(packed({"a.jpg": b"one", **dict.fromkeys(added, b"x")}), max_photos=1, max_bytes=3)
    assert archive.names == ["a.jpg"]


def test_names_without_the_flag_are_read_as_utf_8_if_they_are() -> None:
    names = ["größe/ä.jpg".encode(), "日本.jpg".encode(), "ä.jpg".encode("cp437"), b"ascii.jpg"]
    data = packed({"x" * len(name) + str(number): b"x" for number, name in enumerate(names)})
    for number, name in enumerate(names):
        data = data.replace(f"{'x' * len(name)}{number}".encode(), name + b" ")
    archive = ZipArchive(data, **LIMITS)
    assert archive.names == ["größe/ä.jpg ", "日本.jpg ", "ä.jpg ", "ascii.jpg "]
    assert [archive.read(index, max_bytes=9) for index in range(4)] == [b"x"] * 4


def test_refuses_more_files_than_the_limit() -> None:
    data = packed({f"{number}.jpg": b"x" for number in range(6)})
    with pytest.raises(TooManyPhotos, match=r"6 files; the limit is 5 \(TANDEM_MAX_BATCH_PHOTOS\)"):
        ZipArchive(data, **LIMITS)


def test_an_archive_in_an_archive_is_a_file_like_any_other() -> None:
    inner = packed({"a.jpg": b"one"})
    archive = ZipArchive(packed({"inner.zip": inner}), **LIMITS)
    assert archive.names == ["inner.zip"]
    assert archive.read(0, max_bytes=10_000) == inner


@pytest.mark.parametrize("count", [5, 6, 1000])
def test_entries_that_share_their_bytes_count_each(count: int) -> None:
    data = bytearray(packed({"a.jpg": bytes(3000)}))
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = bytes(data[start:end])
    last = bytearray(data[end:])
    last[8:12] = count.to_bytes(2, "little") * 2
    last[12:16] = (len(entry) * count).to_bytes(4, "little")
    shared = bytes(data[:start]) + entry * count + bytes(last)
    with pytest.raises(TooManyPhotos if count > 5 else UploadTooLarge):
        ZipArchive(shared, **LIMITS)


def test_a_bomb_is_refused_by_the_size_it_states() -> None:
    data = packed({"bomb.jpg": bytes(50_000_000)})
    assert len(data) < 60_000
    with pytest.raises(UploadTooLarge, match=r"47\.7 MiB; the limit is 0\.0 MiB \(TANDEM_MAX_BATCH_BYTES\)"):
        ZipArchive(data, **LIMITS)


def test_a_bomb_that_lies_is_not_unpacked_beyond_the_size_it_states() -> None:
    data = bytearray(packed({"bomb.jpg": bytes(50_000_000)}))
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    archive = ZipArchive(bytes(data), **LIMITS)
    with pytest.raises(UnreadablePhoto, match="Bad CRC-32"):
        archive.read(0, max_bytes=1000)


def test_a_file_above_the_limit_of_a_photo_harms_no_other() -> None:
    archive = ZipArchive(packed({"large.jpg": bytes(5000), "small.jpg": b"x"}), **LIMITS)
    with pytest.raises(UploadTooLarge):
        archive.read(0, max_bytes=4999)
    assert archive.read(1, max_bytes=4999) == b"x"


def test_a_central_directory_that_would_fill_the_memory_is_refused() -> None:
    data = bytearray(packed({"a.jpg": b"x"}))
    data[-10:-6] = (MAX_DIRECTORY_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(BrokenUpload, match="1,048,577 bytes; the limit is 1,048,576"):
        ZipArchive(bytes(data), **LIMITS)


def test_zip64_is_refused() -> None:
    plain = packed({"a.jpg": b"x"})
    with pytest.raises(BrokenUpload, match="ZIP64"):
        ZipArchive(plain[:-22] + b"PK\x06\x07" + bytes(16) + plain[-22:], **LIMITS)


def test_unsupported_compression_and_encryption_are_named() -> None:
    archive = ZipArchive(packed({"a.jpg": b"x"}, zipfile.ZIP_LZMA), **LIMITS)
    with pytest.raises(UnsupportedPhoto, match="method 14"):
        archive.read(0, max_bytes=100)
    data = bytearray(packed({"a.jpg": b"x"}))
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnsupportedPhoto, match="encrypted"):
        ZipArchive(bytes(data), **LIMITS).read(0, max_bytes=100)


def test_what_is_not_an_archive_is_refused() -> None:
    for data in (b"", b"x" * 100, packed({"a.jpg": b"x"})[:-1], b"PK\x05\x06"):
        with pytest.raises(BrokenUpload):
            ZipArchive(data, **LIMITS)


def test_a_file_without_a_name_is_skipped() -> None:
    nameless = bytearray(packed({"a": b"x"}))
    entry = nameless.rfind(b"PK\x01\x02")
    nameless[entry + 28], nameless[entry + 32] = 0, 1  # what was the name is a comment
    assert ZipArchive(bytes(nameless), **LIMITS).names == []


GOOD = packed({"a.jpg": b"one" * 20, "b/c.jpg": b"two" * 30})


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_broken_archive_raises_our_errors_only(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    try:
        archive = ZipArchive(bytes(data), **LIMITS)
        for index in range(len(archive.names)):
            archive.read(index, max_bytes=1000)
    except TandemError:
        pass
