"""Stages two and three: the emotion network alone, then the tandem, both on expressions."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.datasets.ferplus import DROPPED, EMOTIONS, argmax_labels, vote_distributions
from training.datasets.loaders import (
    EVALUATION_BATCH,
    Batch,
    CropBatches,
    OrderedBatches,
    ShuffledBatches,
    batches,
)
from training.datasets.prepared import PreparedSet, load_prepared
from training.networks.tandem import EmotionNet, TandemNet
from training.protocols.ferplus import FerPlusScore, score
from training.runs import begin, finish, fit, load_settings, load_weights
from training.settings.stages import EmotionSettings, ExpressionSettings, JointSettings, ProbeSettings
from training.stages.module import ParameterGroup, Stage
from training.trained_networks import build_tandem, predict, read_views


class ExpressionStage(Stage):
    """Cross-entropy against the distribution of votes; scored on Valid after each epoch.

    Where there are two views of a face, it is the second one that ``raw_share`` is the share of.
    """

    settings: ExpressionSettings

    weights: Tensor

    def __init__(
        self,
        settings: ExpressionSettings,
        network: nn.Module,
        steps_per_epoch: int,
        valid: PreparedSet,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(settings, steps_per_epoch)
        self.network = network
        self.valid = valid
        ones = np.ones(len(EMOTIONS), np.float32)
        self.register_buffer("weights", torch.from_numpy(ones if weights is None else weights), persistent=False)
        self._probabilities: list[Tensor] = []

    def view(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Drawn for each face anew."""
        if crops.shape[1] == 1:
            return crops
        raw = torch.rand(len(crops), generator=generator) < self.settings.raw_share
        return torch.where(raw.to(crops.device).view(-1, 1, 1, 1), crops[:, 1:], crops[:, :1])

    def loss(self, crops: Tensor, targets: Tensor) -> Tensor:
        """``targets`` [N, 8], each row a distribution."""
        return nn.functional.cross_entropy(self.network(crops).float(), targets, weight=self.weights)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Probabilities of each crop."""
        self._probabilities.append(self.network(batch[0]).float().softmax(dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        """Accuracy under both rules; images without a face count as wrong, as they are to a caller."""
        reached = score_prepared(torch.cat(self._probabilities).numpy(), self.valid)
        self._probabilities.clear()
        self.log("valid_majority", reached.majority.accuracy, prog_bar=True)
        self.log("valid_argmax", reached.argmax.accuracy)
        self.log("valid_macro_recall", reached.majority.macro_recall)


class JointStage(ExpressionStage):
    """The tandem: each of its networks learns at a rate of its own."""

    network: TandemNet
    settings: JointSettings

    def parameter_groups(self) -> list[ParameterGroup]:
        """The rates of both networks are shares of the classifier's."""
        rate = self.settings.learning_rate
        emotion = {"params": list(self.network.emotion.parameters())}
        identity = {"params": list(self.network.identity.parameters()), "lr": rate * self.settings.identity_rate}
        classifier = list(self.network.classifier.parameters())
        if self.settings.emotion_rate == 1:  # one group, as checkpoints from before there was a rate have it
            return [{"params": emotion["params"] + classifier}, identity]
        return [{"params": classifier}, {**emotion, "lr": rate * self.settings.emotion_rate}, identity]

    def on_train_epoch_start(self) -> None:
        """A frozen network keeps its batch statistics too."""
        if not self.settings.identity_rate:
            self.network.identity.eval()
        if not self.settings.emotion_rate:
            self.network.emotion.eval()


class ProbeStage(ExpressionStage):
    """A classifier over frozen features."""

    network: EmotionNet

    def parameter_groups(self) -> list[ParameterGroup]:
        """The classifier alone."""
        return [{"params": list(self.network.classifier.parameters())}]

    def on_train_epoch_start(self) -> None:
        """Frozen features come from fixed batch statistics."""
        self.network.backbone.eval()


def score_prepared(probabilities: NDArray[np.float32], prepared: PreparedSet) -> FerPlusScore:
    """Score probabilities [n, 8] of a prepared split."""
    return score(probabilities, prepared.arrays["votes"], prepared.aligned)


def emotion_weights(targets: NDArray[np.float32], balance: float) -> NDArray[np.float32]:
    """The weight of each emotion [8] in the loss, by its share of ``targets`` [n, 8]; 1 in the mean of samples."""
    shares = targets.mean(axis=0)
    raised = np.where(shares > 0, np.maximum(shares, 1e-12) ** -balance, 0)
    weights: NDArray[np.float32] = (raised / (raised * shares).sum()).astype(np.float32)
    return weights


def train_emotion(settings: EmotionSettings) -> None:
    """Train the emotion network apart, from the weights of an identity run or of another emotion run if given."""
    begin(settings)
    network = EmotionNet(settings.network, len(EMOTIONS), settings.dropout)
    if settings.start:
        started = load_settings(settings.start)
        if started["network"] != settings.network:
            raise ValueError(f"{settings.start} trained a {started['network']}; --network is {settings.network}")
        of_people = "margin" in started
        (network.backbone if of_people else network).load_state_dict(load_weights(settings.start))
    _train(ExpressionStage, settings, network)


def train_joint(settings: JointSettings) -> None:
    """Join the networks of two runs and train the whole."""
    begin(settings)
    identity, emotion = load_settings(settings.identity), load_settings(settings.emotion)
    alone = EmotionNet(emotion["network"], len(EMOTIONS), emotion["dropout"])
    alone.load_state_dict(load_weights(settings.emotion))
    network = build_tandem(identity["network"], emotion["network"], settings)
    network.start_from(load_weights(settings.identity), alone)
    network.identity.requires_grad_(settings.identity_rate > 0)
    network.emotion.requires_grad_(settings.emotion_rate > 0)
    _train(JointStage, settings, network)


def train_probe(settings: ProbeSettings) -> None:
    """Read expressions off an identity run's features."""
    begin(settings)
    network = EmotionNet(load_settings(settings.identity)["network"], len(EMOTIONS), settings.dropout)
    network.backbone.load_state_dict(load_weights(settings.identity))
    network.backbone.requires_grad_(False)
    _train(ProbeStage, settings, network)


def _train(
    kind: type[ExpressionStage],
    settings: ExpressionSettings,
    network: EmotionNet | TandemNet,
) -> None:
    train, valid = load_prepared(settings.data / "train"), load_prepared(settings.data / "valid")
    targets = vote_distributions(train.arrays["votes"])
    # What most people found to be no face or no known emotion teaches none.
    kept = (argmax_labels(train.arrays["votes"]) != DROPPED) & (targets.sum(axis=1) > 0)
    crops, targets = train.crops[kept], targets[kept]
    views = [crops]
    if settings.raw_share:
        if "raw" not in train.arrays:
            raise ValueError(f"raw_share is {settings.raw_share}; {settings.data}/train holds no array raw")
        views.append(train.arrays["raw"][kept])
    if settings.taught_by:
        answers = np.mean([read_views(run, *views) for run in settings.taught_by], axis=0)
        targets = (1 - settings.taught_share) * targets + settings.taught_share * answers
    sampler = ShuffledBatches(len(crops), settings.batch_size, seed=settings.seed, replicas=settings.devices)
    weights = emotion_weights(targets, settings.balance)
    stage = kind(settings, network, len(sampler), valid, weights)
    checked = CropBatches(valid.crops, np.zeros(len(valid.crops)))
    curves = fit(
        stage,
        batches(CropBatches(np.stack(views, axis=1), targets), sampler),
        batches(checked, OrderedBatches(len(checked), EVALUATION_BATCH)),
        monitor="valid_majority" if settings.keep == "best" else None,
    )
    logits = predict(network.cpu(), valid.crops)
    reached = score_prepared(torch.from_numpy(logits).softmax(dim=1).numpy(), valid)
    result: dict[str, Any] = {"curves": curves, "images": len(crops), "valid": reached.as_dict()}
    finish(settings, network.state_dict(), result)
