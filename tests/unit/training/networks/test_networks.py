import copy

import pytest
import torch

from training.networks.blocks import CosineClassifier, fuse
from training.networks.tandem import EmotionNet, TandemNet, build_backbone


def crops(count=3):
    return torch.randint(0, 256, (count, 1, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def settled(network):
    """Give a network batch statistics other than the initial ones."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(crops(16))
    return network.eval()


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("deepid", 160, 1_290_960),
        ("deepid-wide", 160, 1_972_120),
        ("small-resnet", 64, 271_536),
        ("resnet18-half", 256, 2_798_960),
        ("resnet18", 512, 11_167_680),
    ],
)
def test_presets_have_their_size(name, features, parameters):
    network = build_backbone(name).eval()
    assert network.features == features
    with torch.inference_mode():
        assert network(crops()).shape == (3, features)
    assert sum(each.numel() for each in network.parameters()) == parameters


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"'resnet50'.* deepid, deepid-wide, small-"):
        build_backbone("resnet50")
    with pytest.raises(ValueError, match=r"one of timm's, such as timm:.* Did you mean resnet18-half\?"):
        build_backbone("resnet-half")


def test_a_tandem_starts_as_the_emotion_network_alone():
    torch.manual_seed(0)
    emotion = settled(EmotionNet("small-resnet", 8, dropout=0.2))
    identity = settled(build_backbone("deepid"))
    tandem = TandemNet("deepid", "small-resnet", 8, hidden=0, dropout=0.2)
    tandem.start_from(identity.state_dict(), emotion)
    tandem.eval()
    with torch.inference_mode():
        assert torch.allclose(tandem(crops()), emotion(crops()), atol=1e-5)
        assert torch.equal(tandem.identity(crops()), identity(crops()))


def test_gradients_reach_both_networks_of_a_tandem():
    torch.manual_seed(0)
    tandem = TandemNet("deepid", "small-resnet", 8, hidden=32, dropout=0.0)
    tandem(crops()).sum().backward()
    for part in (tandem.identity, tandem.emotion):
        assert all(
            each.grad is not None and each.grad.abs().sum() > 0 for each in part.parameters() if each.ndim > 1
        )


def test_fusing_keeps_the_outputs():
    torch.manual_seed(0)
    tandem = settled(TandemNet("deepid", "small-resnet", 8, hidden=0, dropout=0.2))
    fused = fuse(copy.deepcopy(tandem))
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in fused.modules())
    with torch.inference_mode():
        assert torch.allclose(fused(crops()), tandem(crops()), atol=1e-4)


def test_the_margin_is_subtracted_from_the_correct_person_in_training_only():
    classifier = CosineClassifier(4, 3, scale=10, margin=0.2)
    features, target = torch.randn(2, 4), torch.tensor([0, 2])
    classifier.eval()
    plain = classifier(features, target)
    classifier.train()
    assert torch.allclose(
        plain - classifier(features, target), torch.tensor([[2.0, 0, 0], [0, 0, 2.0]]), atol=1e-5
    )
    assert plain.abs().max() <= 10
