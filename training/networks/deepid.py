"""The identity network, after DeepID.

Sun, Wang, Tang, "Deep Learning Face Representation from Predicting 10,000 Classes", CVPR 2014; with batch
normalization, for one crop.
"""

import math

import torch
from torch import Tensor, nn

from training.crop_spec import CROP_SHAPE, CropShape
from training.networks.blocks import ConvNorm, Normalize
from training.networks.presets import WIDTHS


class DeepID(nn.Module):
    """Map crops to identity features.

    The features depend on both the third and the fourth convolution, as in the paper.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = WIDTHS["deepid"],
        features: int = 160,
        dropout: float = 0.4,
        crop: CropShape = CROP_SHAPE,
    ) -> None:
        super().__init__()
        self.features = features
        self.normalize = Normalize()
        first, second, third, fourth = widths
        channels, *sides = crop
        self.conv1 = ConvNorm(channels, first, 4)
        self.conv2 = ConvNorm(first, second, 3)
        self.conv3 = ConvNorm(second, third, 3)
        self.conv4 = ConvNorm(third, fourth, 2)
        self.dropout = nn.Dropout(dropout)
        self.from_third = nn.Linear(third * math.prod(map(_after_pooling, sides)), features)
        self.from_fourth = nn.Linear(fourth * math.prod(_after_pooling(side) - 1 for side in sides), features)
        self.output_norm = nn.BatchNorm1d(features)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] -> [N, features]; the comments have the sides for crops of 48 pixels."""
        x = self.normalize(crops)
        x = torch.relu(self.conv1(x))  # [N, widths[0], 45, 45]
        x = nn.functional.max_pool2d(x, 2, 2)  # [N, widths[0], 22, 22]
        x = torch.relu(self.conv2(x))  # [N, widths[1], 20, 20]
        x = nn.functional.max_pool2d(x, 2, 1)  # [N, widths[1], 19, 19]
        x = torch.relu(self.conv3(x))  # [N, widths[2], 17, 17]
        third = nn.functional.max_pool2d(x, 2, 2)  # [N, widths[2], 8, 8]
        fourth = torch.relu(self.conv4(third))  # [N, widths[3], 7, 7]
        x = self.from_third(self.dropout(third.flatten(1)))
        x = x + self.from_fourth(self.dropout(fourth.flatten(1)))  # [N, features]
        return self.output_norm(x)  # type: ignore[no-any-return]


def _after_pooling(side: int) -> int:
    """Return the side of the third convolution's pooled output for a crop of ``side`` pixels."""
    first = (side - 3) // 2
    second = first - 2 - 1
    return (second - 2) // 2
