"""A linear classifier on frozen features: how much of the expressions of a data set they hold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from training.networks.inference import predict
from training.protocols.linear import fit_linear
from training.runs import check_crop, load_settings
from training.trained import load_backbone, load_identity

STEPS = 100
DECAY = 1e-3
"""Weight of the sum of squares of the classifier, which has more weights than a small set has images."""

Features = NDArray[np.float32]
"""[images, features]."""

Labels = NDArray[np.int64]
"""[images]."""

IDENTITY, EMOTION, TANDEM = "identity features", "emotion features", "both joined, as in the tandem"


def read_features(identity: Path | None, emotion: Path | None, crops: NDArray[np.uint8]) -> dict[str, Features]:
    """Return the features of crops [n, C, H, W] by name: of an identity run, of an emotion run, and both joined.

    A version folder of an exported model can stand for either run, and None leaves one out.
    """
    for run in filter(None, (identity, emotion)):
        check_crop(run, load_settings(run, "identity", "emotion"), crops.shape[1:])
    features = {IDENTITY: predict(load_identity(identity), crops)} if identity else {}
    features |= {EMOTION: predict(load_backbone(emotion), crops)} if emotion else {}
    if len(features) == 2:
        features[TANDEM] = np.concatenate(list(features.values()), axis=1)
    return features


def fit_linearly(train: Features, labels: Labels) -> Callable[[Features], Labels]:
    """Fit multinomial logistic regression, and return the function from other features to predicted labels.

    Features are scaled by their mean and deviation in the training set alone.
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    inputs = torch.from_numpy((train - mean) / deviation)
    classes, targets = np.unique(labels, return_inverse=True)
    goal = torch.from_numpy(targets)
    classifier = fit_linear(
        inputs, len(classes), lambda outputs: cross_entropy(outputs, goal), penalty=DECAY, steps=STEPS
    )

    def predict_labels(features: Features) -> Labels:
        with torch.inference_mode():
            answers = classifier(torch.from_numpy((features - mean) / deviation)).argmax(dim=1).numpy()
        predicted: Labels = classes[answers]
        return predicted

    return predict_labels
