"""Predictions of a network for arrays of crops, in batches and without gradients."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EVALUATION_BATCH_SIZE = 512
"""Crops in a batch wherever nothing is trained."""

Network = Callable[[Tensor], Tensor]


def predict(network: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the outputs of a network, float32 [n, ...], for crops [n, C, H, W], on the CPU."""
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(crops), EVALUATION_BATCH_SIZE)
        return torch.cat([network(batch) for batch in batches]).numpy()


def predict_probabilities(network: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the softmax float32 [n, classes] of the network's logits for crops [n, C, H, W], on the CPU."""
    return torch.from_numpy(predict(network, crops)).softmax(dim=1).numpy()


def mirrored_features(backbone: Network, crops: Tensor) -> Tensor:
    """Return the sum of the features of each crop [N, C, H, W] and of its mirror image, float32 [N, features]."""
    return backbone(crops).float() + backbone(crops.flip(3)).float()


def extract_features(backbone: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ``mirrored_features`` of crops [n, C, H, W], on the CPU."""
    return predict(lambda batch: mirrored_features(backbone, batch), crops)
