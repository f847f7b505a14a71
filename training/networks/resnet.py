"""The emotion sub-network: residual networks for small faces.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with a 3x3 stem that keeps the 48 pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.blocks import ConvNorm, Normalise


@dataclass(frozen=True)
class ResNetShape:
    """Channels of each stage, and blocks in each; ``halved`` starts them at half the crop's resolution."""

    widths: tuple[int, ...]
    blocks: int
    halved: bool = False


PRESETS = {
    "small-resnet": ResNetShape((16, 32, 64), 3),  # 0.27 M parameters; trains on two cores
    # A quarter of ResNet-18's pixels and half its channels: 2.8 M parameters, yet trains faster than small-resnet.
    "resnet18-half": ResNetShape((32, 64, 128, 256), 2, halved=True),
    "resnet18": ResNetShape((64, 128, 256, 512), 2),  # 11.2 M parameters; wants a GPU
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, width, 3, stride=stride, padding=1)
        self.conv2 = ConvNorm(width, width, 3, padding=1)
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else ConvNorm(channels, width, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, width, H / stride, W / stride]."""
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Grey crops to as many features as the last stage has channels."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.features = shape.widths[-1]
        self.normalise = Normalise()
        first = shape.widths[0]
        self.stem: nn.Module = ConvNorm(1, first, 3, padding=1)
        if shape.halved:
            halving = ConvNorm(first // 2, first, 3, stride=2, padding=1)
            self.stem = nn.Sequential(ConvNorm(1, first // 2, 3, padding=1), nn.ReLU(), halving)
        blocks, channels = [], first
        for stage, width in enumerate(shape.widths):
            for block in range(shape.blocks):
                blocks.append(BasicBlock(channels, width, stride=2 if stage and not block else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 1, H, W] bytes -> [N, features]."""
        x = torch.relu(self.stem(self.normalise(crops)))  # [N, widths[0], H, W], halved where so
        x = self.blocks(x)  # [N, widths[-1], ...], each stage after the first halves
        return torch.mean(x, dim=(2, 3))
