"""The emotion network: residual networks for small faces.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with a 3x3 stem that keeps the resolution.
"""

import torch
from torch import Tensor, nn

from training.networks.blocks import ConvNorm, Normalize
from training.networks.presets import ResNetShape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, width, 3, stride=stride, padding=1)
        self.conv2 = ConvNorm(width, width, 3, padding=1)
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else ConvNorm(channels, width, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, H, W] -> [N, width, H / stride, W / stride]."""
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Map crops to features, one for each channel of the last stage."""

    def __init__(self, shape: ResNetShape, channels: int = 1) -> None:
        super().__init__()
        self.features = shape.widths[-1]
        self.normalize = Normalize()
        first = shape.widths[0]
        self.stem: nn.Module = ConvNorm(channels, first, 3, padding=1)
        if shape.halved:
            halving = ConvNorm(first // 2, first, 3, stride=2, padding=1)
            self.stem = nn.Sequential(ConvNorm(channels, first // 2, 3, padding=1), nn.ReLU(), halving)
        blocks, width_before = [], first
        for stage, width in enumerate(shape.widths):
            for block in range(shape.blocks):
                blocks.append(BasicBlock(width_before, width, stride=2 if stage and not block else 1))
                width_before = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] -> [N, features]."""
        x = torch.relu(
            self.stem(self.normalize(crops))
        )  # [N, widths[0], H, W], or [N, widths[0], H / 2, W / 2] if halved
        x = self.blocks(x)  # [N, widths[-1], ...]; each stage after the first halves the resolution
        return torch.mean(x, dim=(2, 3))
