"""Weights of a backbone from a torch checkpoint or a safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.networks.timm_backbone import TimmBackbone

SAFETENSORS = ".safetensors"

NESTED = ("state_dict", "model", "weights")
"""Names under which checkpoints keep the weights beside other things."""

PREFIXES = (
    "",
    "module.",
    "model.",
    "network.",
    "backbone.",
    "module.backbone.",
    "network.backbone.",
    "emotion.",
    "emotion.network.",
    "backbone.network.",
)
"""What may stand before the names of the backbone's weights."""


def load_checkpoint(backbone: nn.Module, file: Path) -> None:
    """Copy the weights of a checkpoint into a backbone of the same architecture; no code in the file is run.

    Raises:
        ValueError: The file is no checkpoint of weights, or lacks one of the backbone's weights.
    """
    try:
        found: Any = _read(file)
    except Exception as error:  # pickle, zipfile and torch have an exception class for each kind of error
        raise ValueError(f"{file} is not a checkpoint of weights alone: {error}") from error
    if isinstance(found, Mapping):
        found = next((found[name] for name in NESTED if isinstance(found.get(name), Mapping)), found)
    if not isinstance(found, Mapping):
        raise ValueError(f"{file} holds a {type(found).__name__}; expected a dictionary of weights")
    if isinstance(backbone, TimmBackbone):
        backbone = backbone.network  # with timm's own names
    expected = backbone.state_dict()
    by_prefix = [
        {name: found[prefix + name] for name in expected if prefix + name in found} for prefix in PREFIXES
    ]
    weights: dict[str, Tensor] = max(by_prefix, key=len)
    weights = {name: _in_gray(value, expected[name]) for name, value in weights.items()}
    fitting = {name: value for name, value in weights.items() if value.shape == expected[name].shape}
    if len(fitting) < len(expected):
        first = next(name for name in expected if name not in fitting)
        shown = f"has the shape {list(weights[first].shape)}" if first in weights else "is missing"
        raise ValueError(
            f"{file} fits {len(fitting)} of the {len(expected)} weights of the network: {first} {shown}; expected "
            f"{list(expected[first].shape)}. Choose the --network that it was trained as"
        )
    backbone.load_state_dict(fitting)


def _in_gray(weight: Tensor, expected: Tensor) -> Tensor:
    """Sum the weights of three colors where a convolution takes gray."""
    if weight.ndim == expected.ndim == 4 and (weight.shape[1], expected.shape[1]) == (3, 1):
        return weight.sum(1, keepdim=True)
    return weight


def _read(file: Path) -> Any:
    if file.suffix == SAFETENSORS:
        from safetensors.torch import load_file  # only such a file needs it

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
