"""A small network behind the real one's contract, and a model repository for it."""

import shutil
import warnings
from pathlib import Path

import torch

CONFIG = Path(__file__).parents[2] / "model_repository" / "tandem" / "config.pbtxt"


class ToyNetwork(torch.nn.Module):
    """A convolution and a linear layer; a crop that is white all over makes it raise, as a broken model would."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 4, 3, stride=4)
        self.norm = torch.nn.BatchNorm2d(4)
        self.linear = torch.nn.Linear(4 * 12 * 12, 8)

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        white = face.flatten(1).min(1).values == 255
        if bool(white.any()):
            raise ValueError("a white crop")
        features = torch.relu(self.norm(self.convolution(face.float() / 255 - 0.5)))
        return torch.softmax(self.linear(features.flatten(1)), 1)


def save_toy(path: Path, seed: int = 0) -> ToyNetwork:
    """Write a network's TorchScript to `path` and return the network itself, to compare values with."""
    torch.manual_seed(seed)
    network = ToyNetwork()
    with torch.no_grad():
        network.norm.running_mean.normal_(std=0.1)
        network.norm.running_var.uniform_(0.5, 1.5)
    network.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # torch 2.13 recommends torch.export, which Triton's pytorch backend cannot load: it takes TorchScript.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return network


def write_toy_repository(folder: Path, extra_config: str = "") -> ToyNetwork:
    """Write a model repository of the real configuration and a toy network to `folder`."""
    network = save_toy(folder / "tandem" / "1" / "model.pt")
    config = shutil.copy(CONFIG, folder / "tandem" / "config.pbtxt")
    with config.open("a") as file:
        file.write(extra_config)
    return network
