"""What a run trains on: the data of a bundle, and what teachers say of it, on the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.bundle.faces import Faces, join_faces, load_faces, predict_faces
from training.crop_spec import CROP_SIZE
from training.datasets.ferplus import EMOTIONS, vote_distributions
from training.datasets.prepared import PreparedSet


@dataclass(frozen=True, eq=False)
class BundleData:
    """Everything on the device.

    Attributes:
        faces: FER+ train, and behind it the faces by person.
        votes: Distribution of the votes for each image of FER+ train, [n, 8].
        people: Person of each face by person, [m].
        embeddings: The teacher's embedding of each, [m, size]; None if there is none.
        valid: FER+ Valid.
        scored: Its votes and outcomes.
        choosing: Which of its images models are chosen on, [v].
    """

    faces: Faces
    votes: Tensor
    people: Tensor
    embeddings: Tensor | None
    valid: Faces
    scored: PreparedSet
    choosing: NDArray[np.bool_]

    @property
    def of_ferplus(self) -> Tensor:
        """Rows of FER+ train."""
        return torch.arange(len(self.votes), device=self.votes.device)

    @property
    def of_people(self) -> Tensor:
        """Rows of the faces by person."""
        return torch.arange(len(self.votes), len(self.faces), device=self.votes.device)


def load_data(arrays: Mapping[str, NDArray[Any]], limit: int | None, device: torch.device) -> BundleData:
    """Put the arrays of a bundle on the device; ``limit`` takes only so many images of each set."""
    known = {name: array[:limit] for name, array in arrays.items()}
    side = max(known["train"].shape[1], known["faces"].shape[1])
    border = (known["faces"].shape[1] - CROP_SIZE[0]) / 2
    within = np.tile(np.array([[1, 0, -border], [0, 1, -border]], np.float32), (len(known["faces"]), 1, 1))
    train = load_faces(known["train"], known["train_matrices"], side, device)
    people = load_faces(known["faces"], within, side, device)
    embeddings = known.get("embeddings")
    scored = {"votes": known["valid_votes"].astype(np.int64), "outcomes": known["valid_outcomes"]}
    return BundleData(
        faces=join_faces(train, people),
        votes=torch.from_numpy(vote_distributions(known["train_votes"].astype(np.int64))).to(device),
        people=torch.from_numpy(known["people"].astype(np.int64)).to(device),
        embeddings=None if embeddings is None else torch.from_numpy(embeddings).to(device),
        valid=load_faces(known["valid"], known["valid_matrices"], side, device),
        scored=PreparedSet(known["valid"], scored, {}),
        choosing=known["valid_choosing"],
    )


class TaughtTargets:
    """The targets of a network that learns from teachers: their answers, and on FER+ the votes, too."""

    def __init__(self, data: BundleData, teachers: list[nn.Module], weight: float) -> None:
        self._teachers, self._weight = [teacher.eval().requires_grad_(False) for teacher in teachers], weight
        self._votes = torch.cat([data.votes, data.votes.new_zeros(len(data.people), len(EMOTIONS))])
        self._of_ferplus = len(data.votes)
        # What they answer without augmentation, over both framings, is more certain than one answer.
        answers = [
            predict_faces(teacher, data.faces, unaligned=unaligned)
            for teacher in self._teachers
            for unaligned in (False, True)
        ]
        self._certain = torch.stack(answers).mean(dim=0)

    @torch.no_grad()
    def __call__(self, rows: Tensor, crops: Tensor) -> tuple[Tensor, ...]:
        """Return distributions [N, 8] for the faces of rows [N] and their crops [N, 1, H, W]."""
        answers = [teacher(crops).float().softmax(dim=1) for teacher in self._teachers]
        taught = (torch.stack(answers).mean(dim=0) + self._certain[rows]) / 2
        weight = torch.where(rows < self._of_ferplus, self._weight, 1.0)[:, None]
        return (weight * taught + (1 - weight) * self._votes[rows],)
