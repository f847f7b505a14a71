"""From a trained network to calibrated TorchScript."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.crop_spec import CropShape
from training.datasets.ferplus import DROPPED, Votes, majority_labels
from training.networks.blocks import Normalize, fuse

MAX_DIFFERENCE = 1e-5
"""Largest allowed difference between a probability of the exported network and of the trained one."""

PARITY_BATCHES = (*range(1, 17), 128)
"""Batch sizes to compare: every size that a CPU computes at once, and the largest of a request."""


class ServedNet(nn.Module):
    """The network as it is served: uint8 crops in, calibrated probabilities out."""

    def __init__(self, network: nn.Module, temperature: float, *, mirror: bool) -> None:
        super().__init__()
        self.network = network
        self.mirror = mirror
        self.temperature = temperature

    def forward(self, face: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] -> probabilities float32 [N, 8]. Triton identifies the input by its name."""
        return torch.softmax(self.logits(face).float() / self.temperature, dim=1)

    def logits(self, face: Tensor) -> Tensor:
        """Return the logits [N, 8], averaged over each crop and its mirror image if ``mirror`` is set."""
        if not self.mirror:
            return self.network(face)  # type: ignore[no-any-return]
        own, mirrored = self.network(torch.cat([face, face.flip(3)])).chunk(2)
        return (own + mirrored) / 2  # type: ignore[no-any-return]


class CastingNormalize(Normalize):
    """Cast the crops to the type of a buffer, so that ``half()`` on the exported network converts all of it.

    With the scales of our own networks nothing is lost: a value minus 127.5, divided by a power of two, is exact
    in float16 and in bfloat16.
    """

    def __init__(self, scales: Normalize) -> None:
        super().__init__(scales.mean, scales.scale)
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()))

    def forward(self, crops: Tensor) -> Tensor:
        """Map [N, C, H, W] -> the same, of the buffer's type."""
        return super().forward(crops).type_as(self.like)


def cast_inputs(network: nn.Module) -> nn.Module:
    """Replace every ``Normalize`` of a network by ``CastingNormalize``, in place."""
    for name, child in network.named_children():
        if isinstance(child, Normalize):
            setattr(network, name, CastingNormalize(child))
        else:
            cast_inputs(child)
    return network


def fit_temperature(logits: NDArray[np.float32], votes: Votes) -> float:
    """Return the temperature with the lowest cross-entropy of the logits [n, 8] against the majority labels.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    labels = majority_labels(votes)
    rows = labels != DROPPED
    inputs, targets = torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows])
    candidates = np.geomspace(0.25, 4, 400)
    losses = [float(nn.functional.cross_entropy(inputs / candidate, targets)) for candidate in candidates]
    return float(candidates[int(np.argmin(losses))])


def to_torchscript(served: ServedNet, crop: CropShape) -> torch.jit.ScriptModule:
    """Trace a network with its batch normalization folded in; ``half()`` and ``bfloat16()`` convert the result."""
    folded = cast_inputs(fuse(deepcopy(served))).eval()
    example = torch.zeros(2, *crop, dtype=torch.uint8)
    with torch.inference_mode():
        return torch.jit.trace(folded, example)  # type: ignore[no-any-return, no-untyped-call]


def check_parity(trained: nn.Module, exported: Callable[[Tensor], Tensor], crops: NDArray[np.uint8]) -> float:
    """Return the largest difference between the probabilities of two networks, over batches of several sizes.

    Args:
        trained: The network as trained.
        exported: The network as exported.
        crops: Crops to compare on, [n, C, H, W].

    Raises:
        ValueError: The difference is above ``MAX_DIFFERENCE``.
    """
    largest = 0.0
    with torch.inference_mode():
        for size in PARITY_BATCHES:
            batch = torch.from_numpy(crops[:size])
            largest = max(largest, float((trained(batch) - exported(batch)).abs().max()))
    if largest > MAX_DIFFERENCE:
        raise ValueError(f"the exported network differs by {largest:.2g}; the limit is {MAX_DIFFERENCE:g}")
    return largest
