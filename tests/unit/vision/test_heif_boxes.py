from contextlib import suppress

import numpy as np
import pytest
from heif_files import box, grid, heif, ispe, overlay
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UnreadablePhoto, UnsupportedPhoto
from service.vision.bomb_checks import check_size
from service.vision.decoding import decode_photo
from service.vision.heif_boxes import HeifBroken, read_images

LIMIT = 50_000_000
TURN = box(b"irot", b"\1")


def test_counts_the_pixels_of_every_image_that_is_decoded() -> None:
    assert read_images(heif(64)).decoded_pixels() == 64**2
    assert read_images(heif(64, alphas=(2,))).decoded_pixels() == 2 * 64**2
    four = {2: (b"grid", grid(2, 2, 100, 100), [1, 1, 1, 1])}
    assert read_images(heif(64, derived=four, sizes={2: ispe(100, 100)}, primary=2)).decoded_pixels() == 4 * 64**2
    layers = {number: (b"iovl", overlay(64, 64, 3), [number - 1] * 3) for number in range(2, 8)}
    assert read_images(heif(64, derived=layers, primary=7)).decoded_pixels() == 3**6 * 64**2


def test_proper_derived_images_are_read() -> None:
    plain = decode_photo(heif(64), max_pixels=LIMIT)
    turned = decode_photo(heif(64, properties=(TURN,)), max_pixels=LIMIT)
    assert np.abs(np.rot90(plain).astype(int) - turned).max() <= 2
    four = {2: (b"grid", grid(2, 2, 100, 100), [1, 1, 1, 1])}
    tiled = decode_photo(heif(64, derived=four, sizes={2: ispe(100, 100)}, primary=2), max_pixels=LIMIT)
    assert tiled.shape == (100, 100, 3)
    assert np.abs(tiled[64:, 64:].astype(int) - plain[:36, :36]).max() <= 2
    assert decode_photo(heif(64, alphas=(2,)), max_pixels=LIMIT).shape == (64, 64, 3)


MANY = 200
SIDE = 600
BOMBS = {
    "many turns": (heif(64, properties=(TURN,) * MANY), "properties irot"),
    "an overlay of many": (heif(SIDE, derived={2: (b"iovl", overlay(SIDE, SIDE, MANY), [1] * MANY)}), "Mpx"),
    "a grid that is cropped": (
        heif(
            SIDE,
            derived={2: (b"grid", grid(16, 16, 64, 64), [1] * 256)},
            sizes={2: ispe(64, 64)},
            primary=2,
        ),
        "Mpx",
    ),
    "overlays of overlays": (
        heif(64, derived={n: (b"iovl", overlay(64, 64, 9), [n - 1] * 9) for n in range(2, 8)}, primary=7),
        "Mpx",
    ),
    "a long chain": (
        heif(64, derived={n: (b"iden", b"", [n + 1 if n < 99 else 1]) for n in range(2, 100)}, primary=2),
        "more than 8 times",
    ),
    "a loop": (
        heif(64, derived={2: (b"iden", b"", [3]), 3: (b"iden", b"", [2])}, primary=2),
        "more than 8 times",
    ),
    "a source without a size": (heif(64, derived={2: (b"iden", b"", [99])}, primary=2), "no size"),
    "two headers": (heif(64) + box(b"meta", bytes(4)), "2 boxes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_takes_too_long_is_refused(name: str) -> None:
    file, reason = BOMBS[name]
    with pytest.raises(ValueError, match=reason):
        check_size(file, 64, 64)
    with pytest.raises((UnreadablePhoto, UnsupportedPhoto)):
        decode_photo(file, max_pixels=LIMIT)


@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    file = bytearray(heif(64, alphas=(2,), derived={3: (b"iden", b"", [1])})[:500])
    for _ in range(data.draw(st.integers(1, 5))):
        file[data.draw(st.integers(0, 499))] = data.draw(st.integers(0, 255))
    with suppress(HeifBroken):
        read_images(bytes(file)).decoded_pixels()
