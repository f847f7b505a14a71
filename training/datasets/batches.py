"""Batches of crops from arrays in memory: loading one is a single indexing operation."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = tuple[Tensor, ...]
"""Crops uint8 [N, C, H, W], or views of each [N, views, C, H, W], followed by their targets, each [N, ...]."""


class CropBatches(Dataset[Batch]):
    """Crops and their targets, indexed by a whole batch.

    Args:
        crops: One crop of each face [n, C, H, W], or several views of it [n, views, C, H, W].
        targets: One or more targets, each [n, ...].
    """

    def __init__(self, crops: NDArray[np.uint8], *targets: NDArray[np.generic]) -> None:
        self.crops = torch.from_numpy(np.ascontiguousarray(crops))
        self.targets = [torch.from_numpy(np.ascontiguousarray(each)) for each in targets]

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, indices: list[int]) -> Batch:
        return self.crops[indices], *(each[indices] for each in self.targets)


class ShuffledBatches(Sampler[list[int]]):
    """Batches of shuffled indices; the order depends on seed and epoch only, so that a resumed run repeats it.

    Each of ``replicas`` processes gets its own part. Samples that do not fill a batch on all of them are left out.

    Raises:
        ValueError: There are too few samples for one batch.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int, replicas: int = 1) -> None:
        if size < batch_size * replicas:
            raise ValueError(
                f"there are {size} samples, fewer than one batch of {batch_size} on each of {replicas} device(s)"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.replicas = replicas
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the trainer calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.replicas)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        step = self.batch_size * self.replicas
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        for start in range(0, len(self) * step, step):
            yield order[start : start + step][rank :: self.replicas].tolist()


class OrderedBatches(Sampler[list[int]]):
    """Batches of indices in order; the last one may be shorter."""

    def __init__(self, size: int, batch_size: int) -> None:
        self.size, self.batch_size = size, batch_size

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.size, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.size)))


def batches(dataset: CropBatches, sampler: Sampler[list[int]]) -> DataLoader[Batch]:
    """Return a loader of batches that the dataset has already collated."""
    return DataLoader(dataset, batch_size=None, sampler=sampler)
