import numpy as np
import pytest
import torch

from training.datasets.prepared import PreparedSet
from training.protocols.readings import choosing_half, readings, score_readings


def valid(count=400, **arrays):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (count, 1, 48, 48), np.uint8)
    votes = np.eye(10, dtype=np.int64)[np.arange(count) % 8] * 10
    return PreparedSet(images, {"votes": votes, "outcomes": np.zeros(count, np.uint8), **arrays}, {})


def test_the_halves_depend_on_the_image_and_not_on_its_place_or_crop():
    one = valid()
    half = choosing_half(one)
    assert 150 < half.sum() < 250
    assert np.array_equal(choosing_half(PreparedSet(one.crops[::-1], one.arrays, {})), half[::-1])
    cropped = PreparedSet(one.crops // 2, {**one.arrays, "unaligned": one.crops}, {})
    assert np.array_equal(choosing_half(cropped), half)


def test_readings_are_both_framings_moved_by_one_pixel_mirrored_and_zoomed():
    one = valid(2)
    one.arrays["unaligned"] = 255 - one.crops
    seen = list(readings(one))
    assert len(seen) == 16
    crops = one.crops
    assert any(np.array_equal(each, crops) for each in seen)
    assert any(np.array_equal(each, crops[..., ::-1]) for each in seen)
    assert any(np.array_equal(each[..., 1:], crops[..., :-1]) for each in seen[:8])  # to the right
    assert any(np.array_equal(each[..., :-1, :], crops[..., 1:, :]) for each in seen[:8])  # up
    assert np.array_equal(seen[9], 255 - crops)
    ramp = np.tile(np.arange(48, dtype=np.uint8) * 5, (1, 1, 48, 1))
    *_, smaller, larger = readings(PreparedSet(ramp, {}, {}))
    assert smaller[0, 0, 24, 30] > ramp[0, 0, 24, 30] > larger[0, 0, 24, 30]


def test_a_score_is_the_mean_over_readings_with_its_spread_and_counts_missing_faces_as_wrong():
    one = valid(80)
    one.crops[:] = 100
    one.crops[:, :, 0, 0] = 200  # the mark is at the other side in a mirror, and gone when the crop moves left
    one.arrays["outcomes"][:8] = 1
    right = torch.from_numpy(one.arrays["votes"][:, :8] / 10).float()

    def network(crops):
        marked = crops[:, 0, 0, 0] > 150
        return torch.where(marked[:, None], right[: len(crops)], right[: len(crops)].roll(1, 1))

    rows = np.ones(80, bool)
    scores = score_readings(network, one, rows)["majority"]
    marked = sum(bool((each[..., 0, 0] > 150).all()) for each in readings(one))
    assert 0 < marked < 8
    assert scores.rows == 80
    assert scores.accuracy == pytest.approx(marked / 8 * 72 / 80)
    assert scores.spread == pytest.approx(72 / 80)
    assert scores.low < scores.accuracy < scores.high
    assert scores.recall["neutral"] == pytest.approx(marked / 8 * 0.9)
