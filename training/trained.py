"""The networks of complete runs, in eval mode."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets.ferplus import EMOTIONS
from training.export import load_tandem
from training.networks.deepid import DeepID
from training.networks.resnet import ResNet
from training.networks.tandem import EmotionNet, TandemNet, build_backbone
from training.stages.expression import predict
from training.stages.run import load_settings, load_weights


def load_identity(run: Path) -> DeepID | ResNet:
    """The features of an identity run.

    Raises:
        FileNotFoundError: the run is not complete.
        ValueError: it is of another stage.
    """
    settings = load_settings(run)
    if "margin" not in settings:
        raise ValueError(f"{run} is no run of the identity stage")
    network = build_backbone(settings["network"])
    network.load_state_dict(load_weights(run))
    return network.eval()


def load_expression(run: Path) -> EmotionNet | TandemNet:
    """The network of an emotion run, of a joint run, or of a classifier over identity features.

    Raises:
        FileNotFoundError: the run is not complete.
        ValueError: it is of the identity stage.
    """
    settings = load_settings(run)
    if "margin" in settings:
        raise ValueError(f"{run} is a run of the identity stage; it reads no expressions")
    if "emotion" in settings:
        return load_tandem(run)
    name = load_settings(Path(settings["identity"]))["network"] if "identity" in settings else settings["network"]
    network = EmotionNet(name, len(EMOTIONS), settings["dropout"])
    network.load_state_dict(load_weights(run))
    return network.eval()


def read_expressions(run: Path, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities [n, 8] of crops [n, H, W] by the network of a run."""
    logits = predict(load_expression(run), crops)
    return torch.from_numpy(logits).softmax(dim=1).numpy()
