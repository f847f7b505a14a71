"""The networks of complete runs, in eval mode."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.datasets.ferplus import EMOTIONS
from training.datasets.loaders import EVALUATION_BATCH
from training.networks.deepid import DeepID
from training.networks.resnet import ResNet
from training.networks.tandem import EmotionNet, TandemNet, build_backbone
from training.runs import load_joint_settings, load_settings, load_weights
from training.settings.stages import JointSettings


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


def load_tandem(run: Path) -> TandemNet:
    """The network of a complete joint run, in eval mode."""
    settings = load_joint_settings(run)
    identity, emotion = (load_settings(Path(settings[stage])) for stage in ("identity", "emotion"))
    fields = settings.keys() & (JointSettings.__dataclass_fields__.keys() - {"augmentation"})
    joint = JointSettings(**{name: settings[name] for name in fields})
    network = build_tandem(identity["network"], emotion["network"], joint)
    network.load_state_dict(load_weights(run))
    return network.eval()


def build_tandem(identity: str, emotion: str, settings: JointSettings) -> TandemNet:
    """The joined network as a joint run's settings describe it, untrained."""
    return TandemNet(identity, emotion, len(EMOTIONS), hidden=settings.hidden, dropout=settings.dropout)


def predict(network: Callable[[Tensor], Tensor], crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits float32 [n, classes] of crops [n, H, W], on the CPU."""
    with torch.inference_mode():
        chunks = torch.split(torch.from_numpy(crops)[:, None], EVALUATION_BATCH)
        return torch.cat([network(chunk) for chunk in chunks]).numpy()


def read_expressions(run: Path, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities [n, 8] of crops [n, H, W] by the network of a run."""
    return _probabilities(load_expression(run), crops)


def read_views(run: Path, *views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities [n, 8] by the network of a run, averaged over ``views``, each [n, H, W], and their mirror
    images.
    """
    network = load_expression(run)
    mirrored = [np.ascontiguousarray(crops[:, :, ::-1]) for crops in views]
    answers: NDArray[np.float32] = np.mean(
        [_probabilities(network, crops) for crops in (*views, *mirrored)], axis=0
    )
    return answers


def _probabilities(network: EmotionNet | TandemNet, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    return torch.from_numpy(predict(network, crops)).softmax(dim=1).numpy()
