"""Modules that the networks share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

GRAY_MEAN, GRAY_SCALE = 127.5, 64.0

FADE_STEPS = 700
"""Training steps over which a ``FadingPReLU`` becomes a ReLU."""


class Normalize(nn.Module):
    """Scale values, uint8 or float in 0..255, to about -2..2, inside the network so that callers need not.

    Args:
        mean: What is subtracted, one value or one for each channel.
        scale: What the rest is divided by.
    """

    def __init__(
        self, mean: float | Sequence[float] = GRAY_MEAN, scale: float | Sequence[float] = GRAY_SCALE
    ) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, crops: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        x = crops.float()
        if isinstance(self.mean, Sequence) and isinstance(self.scale, Sequence):
            # Numbers and not tensors, so that an exported network has them wherever it runs.
            scales = enumerate(zip(self.mean, self.scale, strict=True))
            return torch.cat([(x[:, at : at + 1] - mean) / scale for at, (mean, scale) in scales], dim=1)
        assert not isinstance(self.mean, Sequence)  # noqa: S101 - one of each, or as many as channels
        assert not isinstance(self.scale, Sequence)  # noqa: S101
        return (x - self.mean) / self.scale


class ConvNorm(nn.Sequential):
    """A convolution and its batch normalization; ``fuse`` turns the two into one convolution."""

    def __init__(self, channels: int, width: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__(
            nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False), nn.BatchNorm2d(width)
        )

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> "ConvNorm":
        """Put a normalization that changes nothing behind a convolution that exists."""
        block = cls(1, 1, 1)
        normalization = nn.BatchNorm2d(convolution.out_channels)
        nn.init.constant_(normalization.weight, (1 + normalization.eps) ** 0.5)
        block[0], block[1] = convolution, normalization
        return block


def fuse(network: nn.Module) -> nn.Module:
    """Fold every batch normalization of a network in eval mode into its convolution, in place.

    A ``FadingPReLU`` that has faded becomes a ReLU, another one a PReLU of the slopes that it has reached.
    """
    for name, child in network.named_children():
        if isinstance(child, ConvNorm):
            convolution, normalization = child
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101 - ConvNorm builds exactly these two
            assert isinstance(normalization, nn.BatchNorm2d)  # noqa: S101
            setattr(network, name, fuse_conv_bn_eval(convolution, normalization))
        elif isinstance(child, FadingPReLU):
            setattr(network, name, child.at_rest())
        else:
            fuse(child)
    return network


def unfuse(network: nn.Module, fused: nn.Module) -> None:
    """Copy the weights of a fused network into one of the same shape with normalizations, which change nothing."""
    with torch.no_grad():
        for name, child in network.named_children():
            source = fused.get_submodule(name)
            if isinstance(child, ConvNorm):
                convolution, normalization = child
                assert isinstance(convolution, nn.Conv2d)  # noqa: S101 - ConvNorm builds exactly these two
                assert isinstance(normalization, nn.BatchNorm2d)  # noqa: S101
                weights = source.state_dict()
                convolution.weight.copy_(weights["weight"])
                if convolution.bias is not None:
                    convolution.bias.zero_()
                normalization.reset_parameters()
                normalization.weight.fill_((1 + normalization.eps) ** 0.5)
                normalization.bias.copy_(weights["bias"])
            elif isinstance(child, FadingPReLU):
                assert isinstance(source, nn.PReLU)  # noqa: S101 - what fuse makes of it before it has faded
                child.slopes.copy_(source.weight)
            elif any(child.children()):
                unfuse(child, source)
            else:
                child.load_state_dict(source.state_dict())


@torch.no_grad()
def calibrate(network: nn.Module, crops: Tensor) -> None:
    """Give normalizations behind convolutions the statistics of crops [N, C, H, W]; the outputs stay the same.

    After that, a network whose normalizations had been folded away can be trained on: in training they normalize
    by the statistics of a batch, and would change everything if those were not the ones they have.
    """

    def set_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)  # noqa: S101 - hooked to these only
        assert module.running_mean is not None  # noqa: S101
        assert module.running_var is not None  # noqa: S101
        slope = module.weight / (module.running_var + module.eps).sqrt()
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)
        module.bias.add_(slope * (mean - module.running_mean))
        module.weight.copy_(slope * (variance + module.eps).sqrt())
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [module.register_forward_pre_hook(set_statistics) for module in norms]
    was_training = network.training
    network.eval()(crops)
    network.train(was_training)
    for hook in hooks:
        hook.remove()


class FadingPReLU(nn.Module):
    """PReLU whose slopes fade to zero over the first ``FADE_STEPS`` training steps: a trained one is a ReLU."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes: Tensor
        self.steps: Tensor
        self.register_buffer("slopes", slopes.flatten().clone())
        self.register_buffer("steps", torch.zeros(()))  # a float, because the averaged weights average it, too

    def at_rest(self) -> nn.Module:
        """Return what it computes outside of training."""
        share = max(0.0, 1 - float(self.steps) / FADE_STEPS)
        if not share:
            return nn.ReLU()
        still = nn.PReLU(len(self.slopes))
        still.weight = nn.Parameter(self.slopes * share)
        return still.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, ...] -> the same."""
        if self.training:
            self.steps += 1
        share = (1 - self.steps / FADE_STEPS).clamp(min=0)
        return nn.functional.prelu(x, self.slopes * share) if share > 0 else torch.relu(x)


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
        with torch.autocast(features.device.type, enabled=False):  # a cosine in bfloat16 has two digits
            cosine = nn.functional.linear(
                nn.functional.normalize(features.float()), nn.functional.normalize(self.centers.float())
            )
        if self.training:
            cosine = cosine - self.margin * nn.functional.one_hot(target, cosine.shape[1])
        return self.scale * cosine
