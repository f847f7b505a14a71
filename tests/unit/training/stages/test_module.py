"""The optimizer of a stage."""

import pytest
import torch
from torch import nn

from training.networks.blocks import CosineClassifier
from training.networks.tandem import EmotionNet, TandemNet
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings
from training.stages.expression import ExpressionStage, JointStage
from training.stages.identity import IdentityStage


def identity(folder, **options):
    return IdentityStage(IdentitySettings(out=folder, data=folder, **options), 5, 1, None, teacher_size=4)


def emotion(folder, **options):
    return ExpressionStage(
        EmotionSettings(out=folder, data=folder, **options), EmotionNet("resnet18-half", 8, 0), 1, None
    )


def joint(folder, **options):
    settings = JointSettings(out=folder, data=folder, identity=folder, emotion=folder, **options)
    return JointStage(settings, TandemNet("deepid", "small-resnet", 8, hidden=16, dropout=0), 1, None)


@pytest.mark.parametrize("build", [identity, emotion, joint])
@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_only_weights_of_convolutions_and_dense_layers_decay(tmp_path, build, name, kind):
    stage = build(tmp_path, optimizer=name, weight_decay=0.25)
    optimizer = stage.build_optimizer()
    assert isinstance(optimizer, kind)
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    modules = list(stage.modules())
    weights = {id(each.weight) for each in modules if isinstance(each, nn.Conv2d | nn.Linear)}
    assert {key for key, decay in decays.items() if decay} == weights
    assert set(decays.values()) == {0, 0.25}
    assert decays.keys() == {id(each) for each in stage.parameters()}
    spared = [each for each in modules if isinstance(each, nn.BatchNorm2d | nn.BatchNorm1d | CosineClassifier)]
    assert len(spared) > 2
