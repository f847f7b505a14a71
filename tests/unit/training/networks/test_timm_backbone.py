"""timm's networks. A stand-in takes timm's place, because its torchvision must fit the build of torch."""

import sys
from types import ModuleType

import pytest
import torch

from training.networks.checkpoint import load_checkpoint
from training.networks.tandem import build_backbone
from training.settings.stages import EmotionSettings


class Tiny(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, 5, 3)
        self.pretrained_cfg = {"mean": (0.2, 0.4, 0.6), "std": (0.5, 0.5, 0.5), "input_size": (3, 32, 32)}

    def forward(self, x):
        return self.conv1(x).mean((2, 3))


@pytest.fixture
def made(monkeypatch):
    """Put a module with timm's functions in its place, and return the arguments of each network that was made."""
    calls = []

    def create_model(name, **options):
        calls.append((name, options))
        return Tiny(options["in_chans"])

    timm = ModuleType("timm")
    timm.list_models = lambda pretrained=False: (
        ["resnet18.a1_in1k", "vgg11.tv_in1k"] if pretrained else ["resnet18"]
    )
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def test_a_network_of_timm_is_asked_for_with_the_color_of_the_crops_and_scaled_as_it_expects(made):
    backbone = build_backbone("timm:resnet18.a1_in1k", (3, 40, 40), pretrained=True).eval()
    assert made == [("resnet18.a1_in1k", {"num_classes": 0, "in_chans": 3, "pretrained": True})]
    assert backbone.features == 5
    crops = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    with torch.inference_mode():
        assert torch.allclose(backbone(crops), backbone.network((crops / 255 - mean) / 0.5), atol=1e-5)
    gray = build_backbone("timm:resnet18.a1_in1k")
    assert made[-1][1] == {"num_classes": 0, "in_chans": 1, "pretrained": False}  # its weights are in the run
    assert gray.normalize.mean == pytest.approx([0.4 * 255])


def test_a_checkpoint_has_the_names_of_timm_and_may_be_in_color(made, tmp_path):
    weights = Tiny(3).state_dict()
    torch.save({"state_dict": {**weights, "fc.weight": torch.zeros(2)}}, tmp_path / "weights.pth")
    backbone = build_backbone("timm:resnet18")
    load_checkpoint(backbone, tmp_path / "weights.pth")
    assert torch.allclose(backbone.network.conv1.weight, weights["conv1.weight"].sum(1, keepdim=True))


def test_an_unknown_name_is_named_with_the_nearest(made):
    with pytest.raises(ValueError, match=r"no network 'resnet18.a2'; the nearest are timm:resnet18"):
        build_backbone("timm:resnet18.a2")


def test_weights_that_cannot_be_loaded_are_named(made, monkeypatch):
    def fail(name, **options):
        raise ConnectionError("the hub is not there")

    monkeypatch.setattr(sys.modules["timm"], "create_model", fail)
    with pytest.raises(ValueError, match=r"cannot make 'resnet18' with its weights: the hub is not there"):
        build_backbone("timm:resnet18", pretrained=True)


def test_without_timm_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    settings = EmotionSettings(out=tmp_path, data=tmp_path, network="timm:resnet18")
    with pytest.raises(ValueError, match=r"^timm:resnet18 needs timm: pip install 'tandem-emotions\[timm\]'"):
        build_backbone(settings.network)
