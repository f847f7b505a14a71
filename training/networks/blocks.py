"""Modules that the networks share."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

GRAY_MEAN, GRAY_SCALE = 127.5, 64.0


class Normalize(nn.Module):
    """Scale gray values, uint8 or float in 0..255, to about -2..2, inside the network so that callers need not."""

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, 1, H, W]."""
        return (crops.float() - GRAY_MEAN) / GRAY_SCALE


class ConvNorm(nn.Sequential):
    """A convolution and its batch normalization; ``fuse`` turns the two into one convolution."""

    def __init__(self, channels: int, width: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__(
            nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False), nn.BatchNorm2d(width)
        )


def fuse(network: nn.Module) -> nn.Module:
    """Fold every batch normalization of a network in eval mode into its convolution, in place."""
    for name, child in network.named_children():
        if isinstance(child, ConvNorm):
            convolution, normalization = child
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101 - ConvNorm builds exactly these two
            assert isinstance(normalization, nn.BatchNorm2d)  # noqa: S101
            setattr(network, name, fuse_conv_bn_eval(convolution, normalization))
        else:
            fuse(child)
    return network


class CosineClassifier(nn.Module):
    """A classifier by the cosine to the center of each class, with an additive margin in training.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018.
    """

    def __init__(self, features: int, classes: int, *, scale: float, margin: float) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, features) / features**0.5)
        self.scale = scale
        self.margin = margin

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """[N, features], [N] -> logits [N, classes]."""
        cosine = nn.functional.linear(
            nn.functional.normalize(features.float()), nn.functional.normalize(self.centers)
        )
        if self.training:
            cosine = cosine - self.margin * nn.functional.one_hot(target, cosine.shape[1])
        return self.scale * cosine
