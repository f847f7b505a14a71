"""The Lightning module that all stages share: augmentation, optimizer and learning rate schedule."""

import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from training.augmentation import augment
from training.datasets.batches import Batch
from training.networks.blocks import CosineClassifier
from training.settings.stages import StageSettings

ParameterGroup = dict[str, Any]
"""``params`` and, if it differs from the learning rate of the stage, ``lr``."""


class Stage(LightningModule):
    """A network in training. Subclasses define the loss and the validation."""

    def __init__(self, settings: StageSettings, steps_per_epoch: int) -> None:
        super().__init__()
        self.settings = settings
        self.steps_per_epoch = steps_per_epoch

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group the parameters by learning rate; by default all of them share one."""
        return [{"params": list(self.parameters())}]

    def loss(self, crops: Tensor, *targets: Any, **_: Any) -> Tensor:
        """Compute the loss of augmented crops, float [N, C, H, W] in 0..255, and the batch's other tensors."""
        raise NotImplementedError

    def choose_view(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Choose which view of each face to train on: [N, views, C, H, W] -> [N, C, H, W].

        By default it is the first; crops [N, C, H, W] are the only view.
        """
        return crops if crops.ndim == 4 else crops[:, 0]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of one batch."""
        crops, *targets = batch
        # Seeded again at each step, by seed, step and rank, so that a resumed run continues as if uninterrupted.
        seed = (self.settings.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank
        torch.manual_seed(seed)  # for dropout
        generator = torch.Generator().manual_seed(seed)
        with torch.autocast(crops.device.type, enabled=False):  # bfloat16 would move crops by a tenth of a pixel
            crops = augment(self.choose_view(crops, generator), self.settings.augmentation, generator)
        loss = self.loss(crops.contiguous(memory_format=torch.channels_last), *targets)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(crops), sync_dist=True)
        return loss

    def build_optimizer(self, *, fused: bool | None = None) -> torch.optim.Optimizer:
        """Build the optimizer at the peak learning rate; ``fused`` updates all weights in one kernel on a GPU."""
        settings = self.settings
        groups = [part for group in self.parameter_groups() for part in self._by_decay(group)]
        if settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True, fused=fused)

    def configure_optimizers(self) -> Any:
        """Let the rate of the optimizer rise linearly and decay along a cosine, step by step."""
        settings = self.settings
        optimizer = self.build_optimizer()
        total = settings.epochs * self.steps_per_epoch
        warmup = min(settings.warmup_epochs * self.steps_per_epoch, total - 1)

        def share(step: int) -> float:
            if step < warmup:
                return (1 + step * (1 - 1 / warmup)) / warmup
            return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2

        # A checkpoint holds the step only, so that a run that is extended goes on along the longer schedule.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _by_decay(self, group: ParameterGroup) -> list[ParameterGroup]:
        """Split a group into weights, which decay, and biases, normalizations and centers, which do not."""
        centers = {id(m.centers) for m in self.modules() if isinstance(m, CosineClassifier)}
        weights = [each for each in group["params"] if each.ndim > 1 and id(each) not in centers]
        others = [each for each in group["params"] if each.ndim <= 1 or id(each) in centers]
        decays = ((weights, self.settings.weight_decay), (others, 0.0))
        return [{**group, "params": params, "weight_decay": decay} for params, decay in decays if params]
