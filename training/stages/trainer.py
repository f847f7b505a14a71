"""Fit a stage with Lightning: checkpoints, logs and resume."""

import logging
from typing import Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from training.datasets.batches import Batch
from training.settings.stages import StageSettings
from training.stages.module import Stage

CHECKPOINTS = "checkpoints"

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instructions of x86-64 and Arm processors, any of which makes bfloat16 fast."""


def fit(
    stage: Stage, training: DataLoader[Batch], validation: DataLoader[Batch] | None, *, monitor: str | None
) -> dict[str, float]:
    """Train to the last epoch, resuming from the last checkpoint if there is one, and load the weights to keep.

    Args:
        stage: Module to train; it holds the kept weights afterwards.
        training: Batches of an epoch.
        validation: Batches to validate on after each epoch.
        monitor: Logged metric whose highest value marks the epoch to keep; None keeps the last epoch.

    Returns:
        The last value of each logged metric.
    """
    settings = stage.settings
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoint = ModelCheckpoint(
        settings.out / CHECKPOINTS,
        "best",
        monitor=monitor,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    trainer = Trainer(
        default_root_dir=settings.out,
        max_epochs=settings.epochs,
        precision=resolve_precision(settings),
        gradient_clip_val=settings.max_gradient or None,
        accelerator=settings.accelerator,
        devices=settings.devices,
        callbacks=[
            checkpoint,
            EMAWeightAveraging(decay=settings.ema_decay, use_buffers=True),
            LearningRateMonitor("epoch"),
            TQDMProgressBar(refresh_rate=10),
        ],
        logger=[CSVLogger(settings.out, "curves"), TensorBoardLogger(settings.out, "tensorboard")],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,  # ShuffledBatches gives each process its own part
        enable_model_summary=False,
    )
    stage.to(memory_format=torch.channels_last)
    last = settings.out / CHECKPOINTS / "last.ckpt"
    trainer.fit(stage, training, validation, ckpt_path=last if last.exists() else None, weights_only=True)
    kept = torch.load(checkpoint.best_model_path or last, map_location="cpu", weights_only=True)
    stage.load_state_dict(kept["state_dict"])
    stage.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def resolve_precision(settings: StageSettings) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return the precision that ``auto`` stands for on this machine; another one as it is."""
    if settings.precision != "auto":
        return settings.precision
    if settings.accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    instructions = torch.cpu.get_capabilities()
    return "bf16-mixed" if any(instructions.get(name) for name in BFLOAT16) else "32-true"
