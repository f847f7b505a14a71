import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photos import encoded
from PIL import Image

from service.errors import UnreadablePhoto
from service.vision.bomb_checks import (
    MAX_BLOCKS,
    MAX_CHUNKS,
    MAX_METADATA_CHUNKS,
    MAX_SEGMENTS,
    DecompressionBomb,
    check_scans,
    check_structure,
    count_scans,
)
from service.vision.decoding import decode_photo


def encode(kind: str, **options: object) -> bytes:
    return encoded(Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)), kind, **options)


@pytest.mark.parametrize(
    ("options", "scans"),
    [({}, 1), ({"progressive": True}, 10), ({"restart_marker_blocks": 1}, 1), ({"comment": b"\xff\xda" * 99}, 1)],
)
def test_counts_only_real_scans(options: dict[str, object], scans: int) -> None:
    file = encode("JPEG", **options) + b"\xff\xda\0\x02" * 9  # data after the end of the image
    assert count_scans(file, 1000) == scans
    assert count_scans(file, 0) == 1


def test_too_many_scans_segments_or_chunks_are_unreadable() -> None:
    progressive = encode("JPEG", progressive=True)
    last = progressive[progressive.rfind(b"\xff\xc4") : -2]
    scans = progressive[:-2] + last * 200 + b"\xff\xd9"
    segments = progressive[:2] + b"\xff\xfe\0\x02" * MAX_SEGMENTS + progressive[2:]
    png = encode("PNG")
    chunks = png[:33] + b"\0\0\0\0IDAT\x35\xaf\x06\x1e" * MAX_CHUNKS + png[33:]
    metadata = png[:33] + b"\0\0\0\0abCd\x8a\xf4\xc2\xd9" * (MAX_METADATA_CHUNKS + 1) + png[33:]
    profile = encode("PNG", icc_profile=b"x" * 200)
    at = profile.index(b"iCCP") - 4
    end = at + 12 + int.from_bytes(profile[at : at + 4])
    profiles = profile[:at] + profile[at:end] * 2 + profile[end:]
    assert decode_photo(profile, max_pixels=10_000).shape == (64, 64, 3)
    for file, what in (
        (scans, "more than 30 scans"),
        (segments, "more than 2,000 segments"),
        (chunks, "25,000 chunks"),
        (metadata, "200 chunks of metadata"),
        (profiles, "more than one chunk iCCP"),
    ):
        with pytest.raises(UnreadablePhoto, match=what):
            decode_photo(file, max_pixels=10_000)


def test_large_photos_may_have_fewer_scans() -> None:
    file = encode("JPEG", progressive=True)
    check_scans(file, 50_000_000, times=2)
    with pytest.raises(DecompressionBomb, match=r"more than 9 scans of 55.0 Mpx"):
        check_scans(file, 55_000_000, times=2)
    check_scans(file, 55_000_000, times=1)


@pytest.mark.parametrize(("width", "height"), [(1, 65_536), (65_536, 1)])
def test_photos_of_millions_of_rows_or_columns_are_unreadable(width: int, height: int) -> None:
    with pytest.raises(UnreadablePhoto, match=r"limit for a side is 65,535 pixels"):
        decode_photo(encoded(Image.new("L", (width, height)), "PNG"), max_pixels=100_000)
    assert decode_photo(encoded(Image.new("L", (65_535, 1)), "PNG"), max_pixels=100_000).shape == (1, 65_535, 3)


@given(st.binary(max_size=300), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xda\0\x04"]))
def test_accepts_any_bytes(content: bytes, head: bytes) -> None:
    check_structure(head + content)
    count_scans(head + content, 10)


@pytest.mark.parametrize("kind", [0xFE, 0xFF, 0x01])
def test_the_blocks_before_the_image_of_a_gif_are_limited(kind: int) -> None:
    gif = encode("GIF")
    start = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 128 else 0)
    for count, is_bomb in ((MAX_BLOCKS, False), (MAX_BLOCKS + 1, True)):
        file = gif[:start] + bytes([0x21, kind]) + b"\1x" * count + b"\0" + gif[start:]
        if is_bomb:
            with pytest.raises(DecompressionBomb, match="25,000 blocks"):
                check_structure(file)
        else:
            check_structure(file)
            assert decode_photo(file, max_pixels=10**6).shape == (64, 64, 3)
    check_structure(gif[:-1] + b"!\xfe" + b"\1x" * 2 * MAX_BLOCKS + b"\0;")
