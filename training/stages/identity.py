"""The identity stage: classify people."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from training.crop_spec import CROP_SHAPE, CropShape
from training.datasets.batches import Batch, CropBatches, OrderedBatches, ShuffledBatches, batches
from training.datasets.prepared import PreparedSet, calibration_crops, check_same_crops, load_prepared
from training.networks.blocks import CosineClassifier
from training.networks.inference import EVALUATION_BATCH_SIZE, extract_features, mirrored_features
from training.networks.onnx_backbone import calibrate_from_file
from training.networks.tandem import build_backbone
from training.protocols.lfw import accuracy_at, best_threshold, pair_similarities
from training.runs import finish_run, start_run
from training.settings.stages import IdentitySettings
from training.stages.module import Stage
from training.stages.trainer import fit
from training.timetable import Timetable


class IdentityStage(Stage):
    """Classification of people with a cosine margin, validated on LFW's pairs after each epoch.

    With a ``teacher_size`` above 0, the features also learn to predict the teacher's embeddings of that size.
    """

    settings: IdentitySettings

    def __init__(
        self,
        settings: IdentitySettings,
        people: int,
        steps_per_epoch: int,
        lfw: "LfwView1 | None",
        teacher_size: int = 0,
        crop: CropShape = CROP_SHAPE,
    ) -> None:
        super().__init__(settings, steps_per_epoch)
        self.backbone = build_backbone(settings.network, crop, pretrained=True)
        self.classifier = CosineClassifier(
            self.backbone.features, people, scale=settings.scale, margin=settings.margin
        )
        if teacher_size:
            self.projection = torch.nn.Linear(self.backbone.features, teacher_size, bias=False)
        self.lfw = lfw
        self._features: list[Tensor] = []

    def loss(self, crops: Tensor, people: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Add the cross-entropy over ``people`` [N] and 1 - cosine to the ``embeddings`` [N, teacher_size]."""
        features = self.backbone(crops)
        loss = self.settings.classification_weight * cross_entropy(self.classifier(features, people), people)
        if embeddings is None:
            return loss
        cosine = cosine_similarity(self.projection(features).float(), embeddings.float(), dim=1)
        return loss + self.settings.teacher_weight * (1 - cosine.mean())

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the features of one batch."""
        self._features.append(mirrored_features(self.backbone, batch[0]).cpu())

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy on LFW's pairs."""
        features = torch.cat(self._features).numpy()
        self._features.clear()
        if self.lfw:
            self.log("lfw_accuracy", self.lfw.accuracy(features), prog_bar=True)


class LfwView1:
    """The prepared pairs of LFW View 1."""

    def __init__(self, train: PreparedSet, test: PreparedSet) -> None:
        self.crops: NDArray[np.uint8] = np.concatenate([train.crops, test.crops])
        self._split = len(train.crops)
        self._train, self._test = train.arrays, test.arrays

    def accuracy(self, features: NDArray[np.float32]) -> float:
        """Return the accuracy, 0..1, on dev-test at the best threshold of dev-train, of features [crops, n]."""
        similarities = pair_similarities(features[: self._split], self._train["pairs"])
        threshold = best_threshold(similarities, self._train["same"])
        similarities = pair_similarities(features[self._split :], self._test["pairs"])
        return accuracy_at(threshold, similarities, self._test["same"])


def train_identity(settings: IdentitySettings, timetable: Timetable | None = None) -> None:
    """Train an identity network and write its run.

    Raises:
        ValueError: The folder holds another run, or there is a teacher_weight but no teacher's embeddings.
        FileNotFoundError: A prepared set is missing.
    """
    faces = load_prepared(settings.data)
    start_run(settings, faces.shape)
    labels = faces.arrays["labels"]
    people = int(labels.max()) + 1
    lfw = None
    if settings.lfw:
        lfw = LfwView1(load_prepared(settings.lfw / "dev-train"), load_prepared(settings.lfw / "dev-test"))
        check_same_crops(faces, settings.data, lfw.crops, settings.lfw)
    sampler = ShuffledBatches(len(labels), settings.batch_size, seed=settings.seed, replicas=settings.replicas)
    targets = [labels]
    if settings.teacher_weight:
        if "teacher" not in faces.arrays:
            raise ValueError(
                f"teacher_weight is {settings.teacher_weight}, but {settings.data} has no teacher's embeddings; "
                "prepare it with --teacher"
            )
        targets.append(faces.arrays["teacher"])
    teacher_size = targets[1].shape[1] if settings.teacher_weight else 0
    stage = IdentityStage(settings, people, len(sampler), lfw, teacher_size, faces.shape)
    calibrate_from_file(stage.backbone, torch.from_numpy(calibration_crops(faces, settings.seed)))
    validation = None
    if lfw:
        crops = CropBatches(lfw.crops, np.zeros(len(lfw.crops)))
        validation = batches(crops, OrderedBatches(len(crops), EVALUATION_BATCH_SIZE))
    curves = fit(
        stage,
        batches(CropBatches(faces.crops, *targets), sampler),
        validation,
        monitor="lfw_accuracy" if lfw else None,
        timetable=timetable,
    )
    result = {"curves": curves, "people": people, "images": len(labels)}
    if lfw:
        result["lfw_view1_accuracy"] = lfw.accuracy(extract_features(stage.backbone.cpu(), lfw.crops))
    finish_run(settings, stage.backbone.state_dict(), result)
