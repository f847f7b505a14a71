"""The trained network of a run, and what it predicts.

A run can be the version folder of an exported model, too (see ``exported``).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.ferplus import EMOTIONS
from training.networks.inference import predict_probabilities
from training.networks.tandem import Backbone, EmotionNet, TandemNet, build_backbone
from training.runs import check_crop, crop_of, load_settings, load_weights


def load_identity(run: Path) -> Backbone:
    """Load the backbone of an identity run, in eval mode.

    Raises:
        FileNotFoundError: The run does not exist or is not complete.
        ValueError: The run is of another stage.
    """
    settings = load_settings(run, "identity")
    network = build_backbone(settings["network"], crop_of(settings))
    network.load_state_dict(load_weights(run, "identity"))
    return network.eval()


def load_backbone(run: Path) -> Backbone:
    """Load the backbone of an identity or emotion run, of an exported model that of its emotion run, in eval mode.

    Raises:
        FileNotFoundError: The run does not exist or is not complete.
        ValueError: The run is of another stage.
    """
    settings = load_settings(run, "identity", "emotion")
    if settings["stage"] == "identity":
        return load_identity(run)
    network = EmotionNet(settings["network"], len(EMOTIONS), settings["dropout"], crop_of(settings))
    network.load_state_dict(load_weights(run, "emotion"))
    return network.eval().backbone


def load_expression(run: Path) -> EmotionNet | TandemNet:
    """Load the network of an emotion, joint or probe run, in eval mode.

    Raises:
        FileNotFoundError: The run does not exist or is not complete.
        ValueError: The run is of the identity stage.
    """
    settings = load_settings(run, "emotion", "joint", "probe")
    if settings["stage"] == "joint":
        return load_tandem(run)
    probed = settings["stage"] == "probe"
    backbone = load_settings(Path(settings["identity"]), "identity")["network"] if probed else settings["network"]
    network = EmotionNet(backbone, len(EMOTIONS), settings["dropout"], crop_of(settings))
    network.load_state_dict(load_weights(run))
    return network.eval()


def load_tandem(run: Path) -> TandemNet:
    """Load the network of a joint run, in eval mode.

    Raises:
        FileNotFoundError: The run does not exist or is not complete.
        ValueError: The run is of another stage.
    """
    settings = load_settings(run, "joint")
    identity, emotion = (load_settings(Path(settings[part]), part)["network"] for part in ("identity", "emotion"))
    hidden, dropout = settings["hidden"], settings["dropout"]
    network = TandemNet(identity, emotion, len(EMOTIONS), hidden=hidden, dropout=dropout, crop=crop_of(settings))
    network.load_state_dict(load_weights(run))
    return network.eval()


def predict_expressions(run: Path, *views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict probabilities [n, 8] with the network of a run, averaged over views of the faces [n, C, H, W]."""
    check_crop(run, load_settings(run, "emotion", "joint", "probe"), views[0].shape[1:])
    network = load_expression(run)
    predicted = [predict_probabilities(network, crops) for crops in views]
    mean: NDArray[np.float32] = np.mean(predicted, axis=0)
    return mean
