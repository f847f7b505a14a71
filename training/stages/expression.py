"""The stages that learn expressions: the emotion network, the joint network, and the probe."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.datasets.batches import Batch, CropBatches, OrderedBatches, ShuffledBatches, batches
from training.datasets.ferplus import EMOTIONS, training_rows, vote_distributions
from training.datasets.prepared import PreparedSet, calibration_crops, check_same_crops, load_prepared
from training.exported import is_version
from training.networks.blocks import calibrate
from training.networks.checkpoint import load_checkpoint
from training.networks.inference import EVALUATION_BATCH_SIZE, predict_probabilities
from training.networks.onnx_backbone import calibrate_from_file
from training.networks.tandem import EmotionNet, TandemNet
from training.protocols.ferplus import score_prepared
from training.protocols.readings import choosing_half
from training.runs import check_crop, finish_run, load_settings, load_weights, start_run
from training.settings.stages import EmotionSettings, ExpressionSettings, JointSettings, ProbeSettings
from training.stages.module import ParameterGroup, Stage
from training.stages.trainer import fit
from training.timetable import Timetable
from training.trained import predict_expressions


class ExpressionStage(Stage):
    """Cross-entropy against the distribution of votes, validated on the choosing half of Valid after each epoch.

    If a batch has two views of each face, the second is the unaligned one.
    """

    settings: ExpressionSettings

    class_weights: Tensor
    shift: Tensor
    """Added to the logits in training, [8]."""

    def __init__(
        self,
        settings: ExpressionSettings,
        network: nn.Module,
        steps_per_epoch: int,
        valid: PreparedSet,
        class_weights: NDArray[np.float32] | None = None,
        shift: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(settings, steps_per_epoch)
        self.network = network
        self.valid = valid
        weights = np.ones(len(EMOTIONS), np.float32) if class_weights is None else class_weights
        self.register_buffer("class_weights", torch.from_numpy(weights), persistent=False)
        shifts = np.zeros(len(EMOTIONS), np.float32) if shift is None else shift
        self.register_buffer("shift", torch.from_numpy(shifts), persistent=False)
        self._probabilities: list[Tensor] = []

    def choose_view(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for each face whether to train on the unaligned view."""
        if crops.ndim == 4 or crops.shape[1] == 1:
            return super().choose_view(crops, generator)
        unaligned = torch.rand(len(crops), generator=generator) < self.settings.unaligned_prob
        return torch.where(unaligned.to(crops.device).view(-1, 1, 1, 1), crops[:, 1], crops[:, 0])

    def loss(self, crops: Tensor, targets: Tensor) -> Tensor:
        """Compute the weighted cross-entropy against distributions over the emotions [N, 8]."""
        logits = self.network(crops).float() + self.shift
        return nn.functional.cross_entropy(logits, targets, weight=self.class_weights)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the probabilities of one batch."""
        self._probabilities.append(self.network(batch[0]).float().softmax(dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        """Log the scores on the choosing half; images without a face count as wrong, as in the service."""
        rows = choosing_half(self.valid)
        scores = score_prepared(torch.cat(self._probabilities).numpy(), self.valid, rows)
        self._probabilities.clear()
        self.log("valid_majority", scores.majority.accuracy, prog_bar=True)
        self.log("valid_argmax", scores.argmax.accuracy)
        self.log("valid_macro_recall", scores.majority.macro_recall)


class JointStage(ExpressionStage):
    """The tandem; each of its networks has its own learning rate."""

    network: TandemNet
    settings: JointSettings

    def parameter_groups(self) -> list[ParameterGroup]:
        """Train the classifier at the full rate, and each network at its fraction of it."""
        rate = self.settings.learning_rate
        emotion, identity = self.network.emotion.parameters(), self.network.identity.parameters()
        return [
            {"params": list(self.network.classifier.parameters())},
            {"params": list(emotion), "lr": rate * self.settings.emotion_rate},
            {"params": list(identity), "lr": rate * self.settings.identity_rate},
        ]

    def on_train_epoch_start(self) -> None:
        """Keep the batch statistics of frozen networks fixed, too."""
        if not self.settings.identity_rate:
            self.network.identity.eval()
        if not self.settings.emotion_rate:
            self.network.emotion.eval()


class ProbeStage(ExpressionStage):
    """A classifier on the features of a frozen backbone."""

    network: EmotionNet

    def parameter_groups(self) -> list[ParameterGroup]:
        """Train only the classifier."""
        return [{"params": list(self.network.classifier.parameters())}]

    def on_train_epoch_start(self) -> None:
        """Keep the batch statistics of the backbone fixed."""
        self.network.backbone.eval()


def balanced_weights(targets: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Compute the weight [8] of each emotion in the loss from its frequency in ``targets`` [n, 8].

    A weight is proportional to the frequency to the power of ``-power``; the weights average 1 over all samples.
    """
    frequency = targets.mean(axis=0)
    raised = np.where(frequency > 0, np.maximum(frequency, 1e-12) ** -power, 0)
    weights: NDArray[np.float32] = (raised / (raised * frequency).sum()).astype(np.float32)
    return weights


def train_emotion(settings: EmotionSettings, timetable: Timetable | None = None) -> None:
    """Train an emotion network and write its run.

    Raises:
        ValueError: The folder holds another run, or ``start`` is a run of another stage or network.
        FileNotFoundError: A prepared set or a run is missing.
    """
    train = load_prepared(settings.data / "train")
    start_run(settings, train.shape)
    fresh = not (settings.start or settings.parts)
    network = EmotionNet(settings.network, len(EMOTIONS), settings.dropout, train.shape, pretrained=fresh)
    if settings.parts:
        _join(network, settings, train)
    if fresh:
        calibrate_from_file(network.backbone, torch.from_numpy(calibration_crops(train, settings.seed)))
    if settings.start and settings.start.is_file():
        load_checkpoint(network.backbone, settings.start)
    elif settings.start:
        start = load_settings(settings.start, "identity", "emotion")
        if start["network"] != settings.network:
            raise ValueError(
                f"network is {settings.network}, but {settings.start} has {start['network']}; "
                f"use --network {start['network']}"
            )
        check_crop(settings.start, start, train.shape)
        pretrained = network.backbone if start["stage"] == "identity" else network
        pretrained.load_state_dict(load_weights(settings.start, start["stage"]))
        _calibrate(network, settings, settings.start, train)
    _train(ExpressionStage, settings, network, train, timetable)


def _calibrate(network: nn.Module, settings: ExpressionSettings, source: Path, train: PreparedSet) -> None:
    """Give a network that comes from an exported model the statistics of the crops it is trained on."""
    if is_version(source):
        calibrate(network, torch.from_numpy(calibration_crops(train, settings.seed)))


def _join(network: EmotionNet, settings: EmotionSettings, train: PreparedSet) -> None:
    """Start from the runs of the parts."""
    parts = [load_settings(run, "emotion") for run in settings.parts]
    for run, part in zip(settings.parts, parts, strict=True):
        check_crop(run, part, train.shape)
    joined = "+".join(part["network"] for part in parts)
    if joined != settings.network:
        raise ValueError(f"network is {settings.network}; with these parts it must be {joined}")
    trained = [EmotionNet(part["network"], len(EMOTIONS), 0.0, train.shape) for part in parts]
    for each, run in zip(trained, settings.parts, strict=True):
        each.load_state_dict(load_weights(run, "emotion"))
    network.start_from(trained)


def train_joint(settings: JointSettings, timetable: Timetable | None = None) -> None:
    """Join the networks of two runs, train the whole and write its run.

    Raises:
        ValueError: The folder holds another run, or one of the two runs is of another stage.
        FileNotFoundError: A prepared set or a run is missing.
    """
    train = load_prepared(settings.data / "train")
    start_run(settings, train.shape)
    identity, emotion = load_settings(settings.identity, "identity"), load_settings(settings.emotion, "emotion")
    check_crop(settings.identity, identity, train.shape)
    check_crop(settings.emotion, emotion, train.shape)
    alone = EmotionNet(emotion["network"], len(EMOTIONS), emotion["dropout"], train.shape)
    alone.load_state_dict(load_weights(settings.emotion, "emotion"))
    network = TandemNet(
        identity["network"],
        emotion["network"],
        len(EMOTIONS),
        hidden=settings.hidden,
        dropout=settings.dropout,
        crop=train.shape,
    )
    network.start_from(load_weights(settings.identity, "identity"), alone)
    _calibrate(network.identity, settings, settings.identity, train)
    _calibrate(network.emotion, settings, settings.emotion, train)
    network.identity.requires_grad_(settings.identity_rate > 0)
    network.emotion.requires_grad_(settings.emotion_rate > 0)
    _train(JointStage, settings, network, train, timetable)


def train_probe(settings: ProbeSettings) -> None:
    """Train a classifier on the features of an identity run and write its run.

    Raises:
        ValueError: The folder holds another run, or ``identity`` is a run of another stage.
        FileNotFoundError: A prepared set or a run is missing.
    """
    train = load_prepared(settings.data / "train")
    start_run(settings, train.shape)
    identity = load_settings(settings.identity, "identity")
    check_crop(settings.identity, identity, train.shape)
    network = EmotionNet(identity["network"], len(EMOTIONS), settings.dropout, train.shape)
    network.backbone.load_state_dict(load_weights(settings.identity, "identity"))
    network.backbone.requires_grad_(False)
    _train(ProbeStage, settings, network, train)


def _train(
    kind: type[ExpressionStage],
    settings: ExpressionSettings,
    network: EmotionNet | TandemNet,
    train: PreparedSet,
    timetable: Timetable | None = None,
) -> None:
    valid = load_prepared(settings.data / "valid")
    check_same_crops(train, settings.data / "train", valid.crops, settings.data / "valid")
    views, targets = views_and_targets(settings, train)
    sampler = ShuffledBatches(len(targets), settings.batch_size, seed=settings.seed, replicas=settings.replicas)
    class_weights = balanced_weights(targets, settings.class_weight_power)
    frequency = targets.sum(axis=0) / targets.sum()
    shift = settings.logit_adjustment * np.log(np.maximum(frequency, 1e-6)).astype(np.float32)
    stage = kind(settings, network, len(sampler), valid, class_weights, shift)
    checked = CropBatches(valid.crops, np.zeros(len(valid.crops)))
    curves = fit(
        stage,
        batches(CropBatches(np.stack(views, axis=1), targets), sampler),
        batches(checked, OrderedBatches(len(checked), EVALUATION_BATCH_SIZE)),
        monitor="valid_majority" if settings.keep == "best" else None,
        timetable=timetable,
    )
    scores = score_prepared(predict_probabilities(network.cpu(), valid.crops), valid)
    result: dict[str, Any] = {"curves": curves, "images": len(targets), "valid": asdict(scores)}
    finish_run(settings, network.state_dict(), result)


def views_and_targets(
    settings: ExpressionSettings, train: PreparedSet
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """Select the views [n, C, H, W] of each face to train on, and its target distribution [n, 8].

    The targets of a face sum to the weight of its set, because cross-entropy is linear in them.
    """
    sets = {str(settings.data): train} | {
        folder: load_prepared(Path(folder) / "train") for folder in settings.also
    }
    for folder, each in sets.items():
        check_same_crops(train, settings.data, each.crops, Path(folder))
    chosen = {folder: training_rows(each.arrays["votes"]) for folder, each in sets.items()}
    targets = np.concatenate(
        [vote_distributions(sets[name].arrays["votes"])[rows] for name, rows in chosen.items()]
    )
    weights = [np.full(rows.sum(), settings.also.get(name, 1.0), np.float32) for name, rows in chosen.items()]
    views = [np.concatenate([sets[name].crops[rows] for name, rows in chosen.items()])]
    if settings.unaligned_prob:
        for name, each in sets.items():
            if "unaligned" not in each.arrays:
                raise ValueError(
                    f"unaligned_prob is {settings.unaligned_prob}, but {name}/train has no array 'unaligned'; "
                    "prepare it again"
                )
        views.append(np.concatenate([sets[name].arrays["unaligned"][rows] for name, rows in chosen.items()]))
    if settings.distill_from:
        mirrored = [np.ascontiguousarray(view[..., ::-1]) for view in views]
        predicted = []
        for run in settings.distill_from:
            print(f"Asking {run} for {len(views + mirrored) * len(targets):,} answers to distill from", flush=True)
            predicted.append(predict_expressions(run, *views, *mirrored))
        share = settings.distill_weight
        targets = (1 - share) * targets + share * np.mean(predicted, axis=0)
    return views, (targets * np.concatenate(weights)[:, None]).astype(np.float32)
