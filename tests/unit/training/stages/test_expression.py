import numpy as np
import pytest
import torch
from stripes import votes, write_set

from training.datasets.batches import CropBatches
from training.datasets.prepared import load_prepared
from training.networks.tandem import EmotionNet
from training.settings.stages import EmotionSettings
from training.stages.expression import ExpressionStage, balanced_weights, views_and_targets


def stage(tmp_path, unaligned_prob):
    settings = EmotionSettings(out=tmp_path, data=tmp_path, unaligned_prob=unaligned_prob)
    return ExpressionStage(settings, EmotionNet("small-resnet", 8, 0), steps_per_epoch=1, valid=None)


@pytest.mark.parametrize(("unaligned_prob", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_unaligned_views_are_drawn_with_their_probability(tmp_path, unaligned_prob, expected):
    views = np.zeros((4000, 2, 1, 4, 4), np.uint8)
    views[:, 1] = 255
    crops, _ = CropBatches(views, np.zeros(4000))[list(range(4000))]
    seen = stage(tmp_path, unaligned_prob).choose_view(crops, torch.Generator().manual_seed(3))
    assert seen.shape == (4000, 1, 4, 4)
    assert (
        seen.amin(dim=(1, 2, 3)) == seen.amax(dim=(1, 2, 3))
    ).all()  # each face comes from one view, never from a mixture
    assert (seen == 255).float().mean().item() == pytest.approx(expected, abs=0.03)


def test_a_single_view_is_used_as_it_is(tmp_path):
    crops, _ = CropBatches(np.full((3, 1, 4, 4), 7, np.uint8), np.zeros(3))[[0, 1, 2]]
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(stage(tmp_path, 0.5).choose_view(crops, generator), crops)
    assert torch.equal(
        torch.rand(2, generator=generator), torch.rand(2, generator=torch.Generator().manual_seed(3))
    )


def test_the_power_decides_how_much_rare_emotions_weigh():
    targets = np.repeat(np.eye(8, dtype=np.float32)[:3], [900, 90, 10], axis=0)
    assert balanced_weights(targets, 0.0)[:3] == pytest.approx([1, 1, 1])
    equal = balanced_weights(targets, 1.0)[:3]
    assert equal * [0.9, 0.09, 0.01] == pytest.approx([1 / 3] * 3)
    between = balanced_weights(targets, 0.5)
    assert between[2] / between[0] == pytest.approx(90**0.5)
    assert (between[:3] * [0.9, 0.09, 0.01]).sum() == pytest.approx(1)
    assert not between[3:].any()  # an emotion that never occurs has no weight


def test_the_targets_of_a_further_set_sum_to_its_weight(tmp_path):
    own, further = np.array([1, 2, 3]), np.array([4, 5])
    write_set(tmp_path / "own" / "train", own, votes=votes(own))
    write_set(tmp_path / "further" / "train", further, votes=votes(further))
    settings = EmotionSettings(out=tmp_path, data=tmp_path / "own", also={str(tmp_path / "further"): 0.25})
    (crops,), targets = views_and_targets(settings, load_prepared(tmp_path / "own" / "train"))
    assert len(crops) == 5
    assert targets.argmax(axis=1).tolist() == [1, 2, 3, 4, 5]
    assert targets.sum(axis=1).tolist() == [1, 1, 1, 0.25, 0.25]


@pytest.mark.parametrize("name", ["unaligned_prob", "class_weight_power"])
def test_values_above_one_are_rejected(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is 1.5"):
        EmotionSettings(out=tmp_path, data=tmp_path, **{name: 1.5})
