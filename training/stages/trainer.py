"""Fit a stage with Lightning: checkpoints, logs and resume."""

import logging
import warnings
from typing import Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from torch.utils.data import DataLoader

from training.datasets.batches import Batch
from training.runs import last_checkpoint, note_device
from training.settings.stages import StageSettings
from training.stages.loggers import build_loggers, close_loggers
from training.stages.module import Stage
from training.stages.progress import StageProgress
from training.timetable import Timetable

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instructions of x86-64 and Arm processors, any of which makes bfloat16 fast."""


def fit(
    stage: Stage,
    training: DataLoader[Batch],
    validation: DataLoader[Batch] | None,
    *,
    monitor: str | None,
    timetable: Timetable | None = None,
) -> dict[str, float]:
    """Train to the last epoch, resuming from the last checkpoint if there is one, and load the weights to keep.

    Args:
        stage: Module to train; it holds the kept weights afterwards.
        training: Batches of an epoch.
        validation: Batches to validate on after each epoch.
        monitor: Logged metric whose highest value marks the epoch to keep; None keeps the last epoch.
        timetable: The steps that this stage is one of, to show the time left of all; None if it runs alone.

    Returns:
        The last value of each logged metric.
    """
    settings = stage.settings
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    last = last_checkpoint(settings.out)
    best = ModelCheckpoint(last.parent, "best", monitor=monitor, mode="max", enable_version_counter=False)
    # By itself: with save_last, the callback above would write the last epoch only if it is the best.
    latest = ModelCheckpoint(last.parent, last.stem, enable_version_counter=False)
    trainer = Trainer(
        default_root_dir=settings.out,
        max_epochs=settings.epochs,
        precision=resolve_precision(settings),
        gradient_clip_val=settings.max_gradient or None,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        sync_batchnorm=settings.sync_batchnorm,
        callbacks=[
            *([best] if monitor else []),
            latest,
            EMAWeightAveraging(decay=_ema_decay(stage), use_buffers=True),
            LearningRateMonitor("epoch"),
            StageProgress(settings.out.name, stage.steps_per_epoch, settings.epochs, timetable),
        ],
        logger=build_loggers(settings),
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, stage.steps_per_epoch),
        use_distributed_sampler=False,  # ShuffledBatches gives each process its own part
        enable_model_summary=False,
    )
    note_device(settings.out, trainer.strategy.root_device, str(trainer.precision))
    stage.to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")  # advice on loaders and on its own calls
        trainer.fit(stage, training, validation, ckpt_path=last if last.exists() else None, weights_only=True)
    close_loggers(trainer.loggers)
    kept = torch.load(best.best_model_path or last, map_location="cpu", weights_only=True)
    stage.load_state_dict(kept["state_dict"])
    stage.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _ema_decay(stage: Stage) -> float:
    """Return a decay at which the initial weights are forgotten: in a short training a smaller one than is set.

    After n steps at 1 - 4 / n they have a share of 2 %.
    """
    steps = stage.settings.epochs * stage.steps_per_epoch
    return min(stage.settings.ema_decay, max(0.0, 1 - 4 / steps))


def resolve_precision(settings: StageSettings) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return the precision that ``auto`` stands for on this machine; another one as it is."""
    if settings.precision != "auto":
        return settings.precision
    if settings.accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    instructions = torch.cpu.get_capabilities()
    return "bf16-mixed" if any(instructions.get(name) for name in BFLOAT16) else "32-true"
