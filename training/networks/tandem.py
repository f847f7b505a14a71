"""The whole: identity and emotion features joined (the tandem feature), then fully connected layers."""

from typing import Any

import torch
from torch import Tensor, nn

from training.networks.deepid import WIDTHS, DeepID
from training.networks.resnet import PRESETS, ResNet

BACKBONES = (*WIDTHS, *PRESETS)


def build_backbone(name: str) -> DeepID | ResNet:
    """A network from crops to features, by its preset's name.

    Raises:
        ValueError: the name is no preset.
    """
    if name in WIDTHS:
        return DeepID(WIDTHS[name])
    if name not in PRESETS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(BACKBONES)}")
    return ResNet(PRESETS[name])


class EmotionNet(nn.Module):
    """The emotion sub-network with its own classifier, as it is trained apart."""

    def __init__(self, backbone: str, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.backbone.features, classes)

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 1, 48, 48] bytes -> logits [N, classes]."""
        return self.classifier(self.dropout(self.backbone(crops)))  # type: ignore[no-any-return]


class TandemNet(nn.Module):
    """Both sub-networks and the classifier over their joined features."""

    def __init__(self, identity: str, emotion: str, classes: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.identity = build_backbone(identity)
        self.emotion = build_backbone(emotion)
        joined = self.identity.features + self.emotion.features
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(joined, hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden or joined, classes))

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 1, 48, 48] bytes -> logits [N, classes]."""
        tandem = torch.cat([self.identity(crops), self.emotion(crops)], dim=1)  # [N, identity + emotion]
        return self.classifier(tandem)  # type: ignore[no-any-return]

    def start_from(self, identity: dict[str, Any], emotion: EmotionNet) -> None:
        """Take both sub-networks as they were trained apart.

        Without a hidden layer the classifier starts as the emotion network's own, blind to the identity
        features: joint training then starts from the emotion network's accuracy and can only add to it.
        """
        self.identity.load_state_dict(identity)
        self.emotion.load_state_dict(emotion.backbone.state_dict())
        last = self.classifier[-1]
        if len(self.classifier) == 2 and isinstance(last, nn.Linear):
            with torch.no_grad():
                last.weight[:, : self.identity.features] = 0
                last.weight[:, self.identity.features :] = emotion.classifier.weight
                last.bias.copy_(emotion.classifier.bias)
