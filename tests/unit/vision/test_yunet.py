import cv2
import numpy as np
import pytest
from skimage import data

from service.vision.yunet import YuNet


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet()


@pytest.mark.parametrize("factor", [1.5, 2, 2.7, 4.1])
def test_finds_the_same_face_at_every_reduction(yunet, factor):
    """The photo is enlarged first, so that it is searched at its own size each time."""
    astronaut = data.astronaut()
    height, width = astronaut.shape[:2]
    (expected,) = yunet.detect(astronaut, long_side=max(height, width), threshold=0.6).boxes
    enlarged = cv2.resize(astronaut, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)

    found = yunet.detect(enlarged, long_side=max(height, width), threshold=0.6)

    assert found.best_score > 0.9
    np.testing.assert_allclose(found.boxes, [expected * factor], atol=0.02 * expected.max() * factor)


@pytest.mark.parametrize("shape", [(480, 640), (479, 611), (1, 640)])
def test_pads_a_photo_to_whole_cells(yunet, shape):
    assert len(yunet.detect(np.zeros((*shape, 3), np.uint8), long_side=640, threshold=0.6)) == 0


def test_scores_of_black_are_between_zero_and_one(yunet):
    scores = yunet.detect(np.zeros((64, 64, 3), np.uint8), long_side=64, threshold=0).scores
    assert len(scores)
    assert 0 <= scores.min() <= scores.max() <= 1
