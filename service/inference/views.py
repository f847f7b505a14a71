"""Reads a face from more views where one leaves its emotion in doubt.

The answer for a face whose two likeliest emotions are close depends on how exactly its crop was cut: another
pixel, or the mirror image, tips it. The mean over views holds better, and is right more often. For other faces it
changes little, so they are read once. On FER+ Valid a fifth of the faces is read again, on LFW an eighth, and the
accuracy is almost that of reading all again (model_repository/tandem/1/EXPERIMENTS.md).
"""

from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

MIN_MARGIN = 0.5
"""Probability of the likeliest emotion minus that of the second, below which a face is read again."""

Infer = Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]]
"""Maps crops, uint8 [N, channels, height, width], to probabilities [N, labels]."""


async def read_views(
    infer: Infer, aligned: NDArray[np.uint8], boxed: NDArray[np.uint8] | None
) -> NDArray[np.float32]:
    """Return the probabilities of faces, float32 [N, labels].

    A face in doubt gets the mean over four views: each of its two crops, as it is and mirrored.

    Args:
        infer: Asks the model; its errors are passed on.
        aligned: Crops by the landmarks, uint8 [N, channels, height, width].
        boxed: Crops of the same faces by their boxes, or None to read each face once.
    """
    probabilities = await infer(aligned)
    if boxed is None or probabilities.shape[1] < 2:
        return probabilities
    doubtful = np.flatnonzero(margins(probabilities) < MIN_MARGIN)
    if not len(doubtful):
        return probabilities
    first, second = aligned[doubtful], boxed[doubtful]
    more = await infer(np.concatenate([first[..., ::-1], second, second[..., ::-1]]))
    views = np.stack([probabilities[doubtful], *np.split(more, 3)])
    probabilities = probabilities.copy()  # it may be part of a batch with other photos
    probabilities[doubtful] = views.mean(axis=0)
    return probabilities


def margins(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much the likeliest of [N, labels] exceeds the second, [N]."""
    second, likeliest = np.sort(probabilities, axis=1)[:, -2:].T
    margin: NDArray[np.float32] = likeliest - second
    return margin
