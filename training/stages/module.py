"""What the stages share as Lightning modules: augmentation on the device, the optimiser and its schedule."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from training.datasets.loaders import Batch
from training.settings.stages import StageSettings

ParameterGroup = dict[str, Any]
"""``params`` and, where it differs, ``lr``."""


class Stage(LightningModule):
    """A network in training. A subclass says what the loss is and how well an epoch did."""

    def __init__(self, settings: StageSettings, steps_per_epoch: int) -> None:
        super().__init__()
        self.settings = settings
        self.steps_per_epoch = steps_per_epoch

    def parameter_groups(self) -> list[ParameterGroup]:
        """Parts of the network with a rate of their own; all at one rate unless overridden."""
        return [{"params": list(self.parameters())}]

    def loss(self, crops: Tensor, *targets: Any, **_: Any) -> Tensor:
        """Of augmented crops, float [N, 1, H, W] 0..255, and the targets that the batch has beside them."""
        raise NotImplementedError

    def view(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Of each face's views [N, views, H, W] the one to train on [N, 1, H, W]: the first unless overridden."""
        return crops[:, :1]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step of the optimiser."""
        crops, *targets = batch
        # Drawn anew from seed, step and rank, so that a resumed run goes on as if it had not stopped.
        seed = (self.settings.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator().manual_seed(seed)
        crops = self.settings.augmentation(self.view(crops, generator), generator)
        loss = self.loss(crops.contiguous(memory_format=torch.channels_last), *targets)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(crops), sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum; the rate warms up, then falls along a cosine, step by step."""
        settings = self.settings
        optimizer = torch.optim.SGD(
            self.parameter_groups(),
            lr=settings.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        total = settings.epochs * self.steps_per_epoch
        warmup = min(settings.warmup_epochs * self.steps_per_epoch, total - 1)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
        if not warmup:
            return [optimizer], [{"scheduler": cosine, "interval": "step"}]
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, cosine], [warmup])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
