"""Fit a linear classifier to all samples at once."""

from collections.abc import Callable

import torch
from torch import Tensor


def fit_linear(
    inputs: Tensor, outputs: int, loss: Callable[[Tensor], Tensor], *, penalty: float, steps: int
) -> torch.nn.Linear:
    """Fit a linear layer, from zero, by L-BFGS.

    Args:
        inputs: Standardized features, [n, features].
        outputs: Number of outputs of the layer.
        loss: Of the outputs for all inputs, [n, outputs].
        penalty: Weight of the sum of the squared weights in the loss.
        steps: Iterations, at most.
    """
    layer = torch.nn.Linear(inputs.shape[1], outputs)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(layer(inputs)) + penalty * layer.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return layer
