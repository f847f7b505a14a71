"""Stage one: tell people apart."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from training.datasets.loaders import (
    EVALUATION_BATCH,
    Batch,
    CropBatches,
    OrderedBatches,
    ShuffledBatches,
    batches,
)
from training.datasets.prepared import PreparedSet, load_prepared
from training.networks.blocks import CosineClassifier
from training.networks.tandem import build_backbone
from training.protocols.lfw import accuracy_at, best_threshold, pair_similarities
from training.runs import begin, finish, fit
from training.settings.stages import IdentitySettings
from training.stages.module import Stage


class IdentityStage(Stage):
    """Classification over people with a cosine margin; checked on LFW's pairs after each epoch.

    Where a teacher's embeddings of ``teacher_size`` numbers are given, the features are drawn to them as well.
    """

    settings: IdentitySettings

    def __init__(
        self,
        settings: IdentitySettings,
        people: int,
        steps_per_epoch: int,
        lfw: "LfwView1 | None",
        teacher_size: int = 0,
    ) -> None:
        super().__init__(settings, steps_per_epoch)
        self.backbone = build_backbone(settings.network)
        self.classifier = CosineClassifier(
            self.backbone.features, people, scale=settings.scale, margin=settings.margin
        )
        if teacher_size:
            self.projection = torch.nn.Linear(self.backbone.features, teacher_size, bias=False)
        self.lfw = lfw
        self._features: list[Tensor] = []

    def loss(self, crops: Tensor, people: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Cross-entropy over ``people`` [N]; and 1 - cosine to the teacher's ``embeddings`` [N, teacher_size]."""
        features = self.backbone(crops)
        loss = self.settings.people_weight * cross_entropy(self.classifier(features, people), people)
        if embeddings is None:
            return loss
        nearness = cosine_similarity(self.projection(features).float(), embeddings.float(), dim=1)
        return loss + self.settings.teacher_weight * (1 - nearness.mean())

    def validation_step(self, batch: Batch, index: int) -> None:
        """Features of each crop and of its mirror image."""
        self._features.append(mirrored_features(self.backbone, batch[0]).cpu())

    def on_validation_epoch_end(self) -> None:
        """Accuracy on the pairs."""
        features = torch.cat(self._features).numpy()
        self._features.clear()
        if self.lfw:
            self.log("lfw_accuracy", self.lfw.accuracy(features), prog_bar=True)


def mirrored_features(backbone: torch.nn.Module, crops: Tensor) -> Tensor:
    """Crops [N, 1, H, W] to the sum of each one's features and its mirror image's, float32 [N, features]."""
    features: Tensor = backbone(crops).float() + backbone(crops.flip(3)).float()
    return features


class LfwView1:
    """The prepared pairs of View 1: the threshold comes from dev-train, the accuracy from dev-test."""

    def __init__(self, train: PreparedSet, test: PreparedSet) -> None:
        self.crops: NDArray[np.uint8] = np.concatenate([train.crops, test.crops])
        self._split = len(train.crops)
        self._train, self._test = train.arrays, test.arrays

    def accuracy(self, features: NDArray[np.float32]) -> float:
        """Of features [len(crops), n], 0..1."""
        fitted = pair_similarities(features[: self._split], self._train["pairs"])
        threshold = best_threshold(fitted, self._train["same"])
        similarities = pair_similarities(features[self._split :], self._test["pairs"])
        return accuracy_at(threshold, similarities, self._test["same"])


def train_identity(settings: IdentitySettings) -> None:
    """Train, keep the epoch that reads LFW best (the last where there is no LFW), and write the run."""
    begin(settings)
    faces = load_prepared(settings.data)
    labels = faces.arrays["labels"]
    people = int(labels.max()) + 1
    lfw = None
    if settings.lfw:
        lfw = LfwView1(load_prepared(settings.lfw / "dev-train"), load_prepared(settings.lfw / "dev-test"))
    sampler = ShuffledBatches(len(labels), settings.batch_size, seed=settings.seed, replicas=settings.devices)
    targets = [labels]
    if settings.teacher_weight:
        if "teacher" not in faces.arrays:
            raise ValueError(
                f"teacher_weight is {settings.teacher_weight}; {settings.data} holds no teacher's embeddings: "
                "prepare it with --teacher"
            )
        targets.append(faces.arrays["teacher"])
    teacher_size = targets[1].shape[1] if settings.teacher_weight else 0
    stage = IdentityStage(settings, people, len(sampler), lfw, teacher_size)
    validation = None
    if lfw:
        checked = CropBatches(lfw.crops, np.zeros(len(lfw.crops)))
        validation = batches(checked, OrderedBatches(len(checked), EVALUATION_BATCH))
    curves = fit(
        stage,
        batches(CropBatches(faces.crops, *targets), sampler),
        validation,
        monitor="lfw_accuracy" if lfw else None,
    )
    result = {"curves": curves, "people": people, "images": len(labels)}
    if lfw:
        with torch.inference_mode():
            chunks = torch.split(torch.from_numpy(lfw.crops)[:, None], EVALUATION_BATCH)
            features = torch.cat([mirrored_features(stage.backbone.cpu(), chunk) for chunk in chunks])
        result["lfw_view1_accuracy"] = lfw.accuracy(features.numpy())
    finish(settings, stage.backbone.state_dict(), result)
