"""What every network here is made of."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

GREY_MEAN, GREY_SCALE = 127.5, 64.0


class Normalise(nn.Module):
    """Grey crops as bytes, uint8 or float 0..255, to about -2..2; inside the network, so that callers need not."""

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, 1, H, W]."""
        return (crops.float() - GREY_MEAN) / GREY_SCALE


class ConvNorm(nn.Sequential):
    """A convolution and its batch normalisation; ``fuse`` makes one convolution of the two."""

    def __init__(self, channels: int, width: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__(
            nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False), nn.BatchNorm2d(width)
        )


def fuse(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation of a network in eval mode into its convolution, in place."""
    for name, child in network.named_children():
        if isinstance(child, ConvNorm):
            convolution, normalisation = child
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101 - ConvNorm builds exactly these two
            assert isinstance(normalisation, nn.BatchNorm2d)  # noqa: S101
            setattr(network, name, fuse_conv_bn_eval(convolution, normalisation))
        else:
            fuse(child)
    return network


class CosineClassifier(nn.Module):
    """Classes by the angle to their centre, with an additive margin in training.

    Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018.
    """

    def __init__(self, features: int, classes: int, *, scale: float, margin: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, features) / features**0.5)
        self.scale = scale
        self.margin = margin

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """[N, features], [N] -> logits [N, classes]."""
        cosine = nn.functional.linear(
            nn.functional.normalize(features.float()), nn.functional.normalize(self.centres)
        )
        if self.training:
            cosine = cosine - self.margin * nn.functional.one_hot(target, cosine.shape[1])
        return self.scale * cosine
