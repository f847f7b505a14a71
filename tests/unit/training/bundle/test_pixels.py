import numpy as np
import pytest
from stripes import stripes

from training.bundle import pixels
from training.bundle.pixels import pack_images, unpack_images


@pytest.mark.parametrize("loss", [0, 1, 4])
def test_no_gray_value_changes_by_more_than_the_loss(loss, monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", 7)  # the last chunk is not full
    images = stripes(np.arange(16) % 8)[:, 0]
    images[0], images[1] = 255, np.random.default_rng(0).integers(0, 256, (48, 48))
    packed = pack_images(images, loss)
    changed = np.abs(unpack_images(packed, images.shape, loss).astype(int) - images)
    assert changed.max() == loss
    assert len(packed) < images.nbytes


def test_damaged_images_are_named():
    images = stripes(np.arange(4))[:, 0]
    with pytest.raises(ValueError, match="damaged"):
        unpack_images(pack_images(images, 0)[:-50], images.shape, 0)
