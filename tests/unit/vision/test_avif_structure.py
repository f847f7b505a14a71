"""The cost of an AVIF is known from its headers, whatever size it states."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from photos import encoded
from PIL import Image

from service.errors import UnreadablePhoto
from service.vision.avif_structure import as_still, check_frames
from service.vision.bomb_checks import DecompressionBomb
from service.vision.decoding import decode_photo

IMAGE = Image.linear_gradient("L").resize((300, 200)).convert("RGB")
AVIF = encoded(IMAGE, "AVIF", speed=10)


def saying(avif: bytes, width: int, height: int) -> bytes:
    at = avif.index(b"ispe") + 8
    return avif[:at] + struct.pack(">II", width, height) + avif[at + 8 :]


def with_frames(avif: bytes, count: int) -> bytes:
    """Repeat the frame of an AVIF."""
    content = avif[avif.index(b"mdat") + 4 :]
    sequence, frame = content[: 2 + content[1]], content[2 + content[1] :]
    repeated = sequence + frame * count
    head = avif[: -len(content)].replace(len(content).to_bytes(4), len(repeated).to_bytes(4))
    return head[:-8] + (8 + len(repeated)).to_bytes(4) + b"mdat" + repeated


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_real_files_pass(mode: str, frames: int) -> None:
    image = IMAGE.convert(mode)
    sequence = {"save_all": True, "append_images": [image] * (frames - 1)} if frames > 1 else {}
    check_frames(as_still(encoded(image, "AVIF", speed=10, **sequence)), 300 * 200)


def test_a_coded_size_that_is_larger_or_smaller_than_the_stated_is_a_bomb() -> None:
    large = encoded(Image.new("RGB", (1200, 1000)), "AVIF", speed=10)
    for photo, size in ((large, (64, 64)), (AVIF, (3000, 2000))):
        with pytest.raises(UnreadablePhoto, match="codes"):
            decode_photo(saying(photo, *size), max_pixels=10**7)


def test_the_number_of_frames_is_limited() -> None:
    check_frames(with_frames(AVIF, 5), 300 * 200)
    with pytest.raises(DecompressionBomb, match=r"codes \d+ frames with 1\.6 Mpx and more for a photo of 0\.1"):
        check_frames(with_frames(AVIF, 1000), 300 * 200)


def test_of_a_sequence_only_the_still_image_is_decoded() -> None:
    sequence = encoded(
        IMAGE, "AVIF", speed=10, save_all=True, append_images=[Image.new("RGB", (300, 200), "red")] * 9
    )
    assert b"moov" in sequence
    assert b"moov" not in as_still(sequence)
    assert len(as_still(sequence)) == len(sequence)
    assert (
        abs(decode_photo(sequence, max_pixels=10**6).astype(int) - decode_photo(AVIF, max_pixels=10**6)).mean() < 4
    )


@given(st.lists(st.tuples(st.integers(0, len(AVIF) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_structures_raise_nothing_else(changes: list[tuple[int, int]]) -> None:
    data = bytearray(AVIF)
    for place, value in changes:
        data[place] = value
    with suppress(DecompressionBomb, IndexError):
        check_frames(as_still(bytes(data)), 300 * 200)
