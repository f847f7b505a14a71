"""A linear classifier on frozen features: how much of the expressions of another data set they hold."""

import numpy as np
import torch
from numpy.typing import NDArray

STEPS = 100
DECAY = 1e-3
"""Weight of the sum of squares of the classifier, which has more weights than a small set has images."""

Features = NDArray[np.float32]
"""[images, features]."""


def predict_linearly(train: Features, labels: NDArray[np.int64], test: Features) -> NDArray[np.int64]:
    """Fit multinomial logistic regression to features of a training set and predict the labels of a test set.

    Features are scaled by their mean and deviation in the training set alone.
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    inputs = torch.from_numpy((train - mean) / deviation)
    classes, targets = np.unique(labels, return_inverse=True)
    classifier = torch.nn.Linear(inputs.shape[1], len(classes))
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")
    goal = torch.from_numpy(targets)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(classifier(inputs), goal)
        value = value + DECAY * classifier.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        answers = classifier(torch.from_numpy((test - mean) / deviation)).argmax(dim=1).numpy()
    predicted: NDArray[np.int64] = classes[answers]
    return predicted
