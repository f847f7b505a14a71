"""The tandem network: joined identity and emotion features, followed by fully connected layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.crop_spec import CROP_SHAPE, CropShape
from training.networks.deepid import DeepID
from training.networks.onnx_backbone import OnnxBackbone
from training.networks.presets import BACKBONES, PRESETS, TIMM, WIDTHS, is_elsewhere, unknown_network
from training.networks.resnet import ResNet
from training.networks.timm_backbone import TimmBackbone


class JoinedBackbones(nn.Module):
    """Map crops to the features of several networks, one after the other."""

    def __init__(self, names: Sequence[str], crop: CropShape = CROP_SHAPE, *, pretrained: bool = False) -> None:
        super().__init__()
        built = [build_backbone(name, crop, pretrained=pretrained) for name in names]
        self.networks = nn.ModuleList(built)
        self.features: int = sum(each.features for each in built)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] -> [N, features]."""
        return torch.cat([network(crops) for network in self.networks], dim=1)


Backbone = DeepID | ResNet | OnnxBackbone | TimmBackbone | JoinedBackbones


def build_backbone(name: str, crop: CropShape = CROP_SHAPE, *, pretrained: bool = False) -> Backbone:
    """Build a network from crops to features: a preset, a file, one of timm's, or several joined by "+".

    A file is a network in ONNX form, or the structure of one (``OnnxBackbone.describe``). ``pretrained`` loads the
    weights of timm's networks; those of an ONNX file always come with it.

    Raises:
        ValueError: The name is none of these, or the network cannot be used.
        FileNotFoundError: The file does not exist.
    """
    if "+" in name:
        return JoinedBackbones(name.split("+"), crop, pretrained=pretrained)
    if name.startswith(TIMM):
        return TimmBackbone(name.removeprefix(TIMM), crop, pretrained=pretrained)
    if is_elsewhere(name):
        return OnnxBackbone(Path(name), crop)
    if name in WIDTHS:
        return DeepID(WIDTHS[name], crop=crop)
    if name not in PRESETS:
        raise ValueError(unknown_network(name, BACKBONES))
    return ResNet(PRESETS[name], crop[0])


class EmotionNet(nn.Module):
    """The emotion network with a classifier of its own, as it is trained before the joint stage."""

    def __init__(
        self,
        backbone: str,
        classes: int,
        dropout: float,
        crop: CropShape = CROP_SHAPE,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, crop, pretrained=pretrained)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.backbone.features, classes)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] -> logits [N, classes]."""
        return self.classifier(self.dropout(self.backbone(crops)))  # type: ignore[no-any-return]

    def start_from(self, parts: "Sequence[EmotionNet]") -> None:
        """Copy the weights of trained networks, one for each joined backbone; the logits start as their mean."""
        assert isinstance(self.backbone, JoinedBackbones)  # noqa: S101 - the caller has joined the networks of parts
        for network, part in zip(self.backbone.networks, parts, strict=True):
            network.load_state_dict(part.backbone.state_dict())
        with torch.no_grad():
            self.classifier.weight.copy_(torch.cat([part.classifier.weight for part in parts], dim=1) / len(parts))
            self.classifier.bias.copy_(torch.stack([part.classifier.bias for part in parts]).mean(dim=0))


class TandemNet(nn.Module):
    """Both networks and a classifier of their joined features."""

    def __init__(
        self,
        identity: str,
        emotion: str,
        classes: int,
        *,
        hidden: int,
        dropout: float,
        crop: CropShape = CROP_SHAPE,
    ) -> None:
        super().__init__()
        self.identity = build_backbone(identity, crop)
        self.emotion = build_backbone(emotion, crop)
        joined = self.identity.features + self.emotion.features
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(joined, hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden or joined, classes))

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] -> logits [N, classes]."""
        tandem = torch.cat([self.identity(crops), self.emotion(crops)], dim=1)  # [N, identity + emotion]
        return self.classifier(tandem)  # type: ignore[no-any-return]

    def start_from(self, identity: dict[str, Any], emotion: EmotionNet) -> None:
        """Copy the weights of both networks.

        Without a hidden layer, the classifier starts as the emotion network's own and ignores the identity
        features, so that joint training starts from the emotion network's accuracy.
        """
        self.identity.load_state_dict(identity)
        self.emotion.load_state_dict(emotion.backbone.state_dict())
        last = self.classifier[-1]
        if len(self.classifier) == 2 and isinstance(last, nn.Linear):
            with torch.no_grad():
                last.weight[:, : self.identity.features] = 0
                last.weight[:, self.identity.features :] = emotion.classifier.weight
                last.bias.copy_(emotion.classifier.bias)
