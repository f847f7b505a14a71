from dataclasses import replace

import pytest
import torch

from training.augmentation import augment
from training.settings.augmentation import Augmentation

NOTHING = Augmentation(
    rotation=0, scale=0, shift=0, flip=False, brightness=0, contrast=0, gamma=0, blur=0, noise=0, erase=0
)


def crops(count=16):
    return torch.randint(0, 256, (count, 1, 48, 48), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_zeros_change_nothing():
    batch = crops()
    assert torch.allclose(augment(batch, NOTHING, seeded()), batch.float(), atol=1e-2)


def test_the_result_depends_on_the_seed_only():
    batch = crops()
    once, again, other = (augment(batch, Augmentation(), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.min() >= 0
    assert once.max() <= 255


def test_flipping_mirrors_about_half():
    batch = crops(200)
    out = augment(batch, replace(NOTHING, flip=True), seeded())
    mirrored = [torch.allclose(new, old.flip(-1).float(), atol=1e-2) for new, old in zip(out, batch, strict=True)]
    kept = [torch.allclose(new, old.float(), atol=1e-2) for new, old in zip(out, batch, strict=True)]
    assert sum(mirrored) + sum(kept) == 200
    assert 60 < sum(mirrored) < 140


def test_rotation_keeps_distances():
    batch = torch.zeros(50, 1, 48, 48, dtype=torch.uint8)
    batch[:, :, 23:25, 38:40] = 255  # a dot 15 pixels right of the center
    out = augment(batch, replace(NOTHING, rotation=30), seeded())[:, 0]
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    weight = out.sum(dim=(1, 2))
    y, x = ((out * each).sum(dim=(1, 2)) / weight - 23.5 for each in (rows, columns))
    assert torch.allclose((x**2 + y**2).sqrt(), torch.full((50,), 15.0), atol=0.3)
    assert torch.atan2(y, x).abs().max() <= torch.deg2rad(torch.tensor(31.0))
    assert torch.atan2(y, x).std() > 0.2


def test_erasing_keeps_at_least_four_fifths_of_a_crop():
    batch = torch.full((100, 1, 48, 48), 77, dtype=torch.uint8)
    out = augment(batch, replace(NOTHING, erase=1.0), seeded())
    kept = (out == 77).float().mean(dim=(1, 2, 3))
    assert kept.min() > 0.75
    assert kept.max() < 1


@pytest.mark.parametrize("name", ["scale", "shift", "contrast", "blur", "erase"])
def test_a_value_above_one_is_rejected(name):
    with pytest.raises(ValueError, match=f"augmentation.{name} is 1.5"):
        Augmentation(**{name: 1.5})
