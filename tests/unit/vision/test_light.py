import numpy as np
import pytest

from service.vision.light import brighten, sharpen

PATTERN = np.random.default_rng(0).integers(0, 256, (100, 120, 3)).astype(np.uint8)


@pytest.mark.parametrize("divisor", [4, 10, 30])
def test_brightens_a_dark_image_to_white(divisor: int) -> None:
    bright = brighten(PATTERN // divisor)
    assert bright.max() >= 250
    assert np.abs(bright.astype(int) - PATTERN).max() <= 2 * divisor


def test_leaves_bright_images_and_black_ones() -> None:
    assert brighten(PATTERN) is PATTERN
    lamp = PATTERN // 20
    lamp[:20, :20] = 255
    assert brighten(lamp) is lamp
    for value in (0, 3):
        flat = np.full((1, 5, 3), value, np.uint8)
        assert brighten(flat) is flat


def test_sharpens_a_blurred_image() -> None:
    flat = np.full((40, 50, 3), 90, np.uint8)
    assert (sharpen(flat, 4) == flat).all()
    square = flat.copy()
    square[15:25, 20:30] = 120
    sharp = sharpen(square, 4)
    assert sharp.shape == square.shape
    assert int(sharp.max()) - int(sharp.min()) > 2 * 30
