"""Running a stage: checkpoints, logs, resume, and what is written beside them."""

import json
import logging
import platform
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from training.datasets.loaders import Batch
from training.settings.stages import StageSettings
from training.stages.module import Stage

SETTINGS, RESULT, WEIGHTS, CHECKPOINTS = "settings.json", "result.json", "weights.pt", "checkpoints"
MADE_BY = "made_by.json"


def begin(settings: StageSettings) -> None:
    """Claim the folder of a run and seed everything.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(settings), indent=2, default=str) + "\n"
    file = settings.out / SETTINGS
    if not file.exists():
        _write(file, text)
    elif _with_defaults(json.loads(file.read_text()), settings) != json.loads(text):
        raise ValueError(f"{settings.out} holds a run with other settings ({file}): choose another --out")
    made_by = {"commit": commit(), "torch": torch.__version__, "machine": platform.machine()}
    _write(settings.out / MADE_BY, json.dumps(made_by, indent=2) + "\n")
    seed_everything(settings.seed, verbose=False)


def _with_defaults(written: dict[str, Any], settings: StageSettings) -> dict[str, Any]:
    """Settings that a run wrote, completed by those that have come since: it ran as their defaults say."""
    defaults = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    completed: dict[str, Any] = json.loads(json.dumps(defaults, default=str))
    return completed | written


@rank_zero_only
def _write(file: Path, text: str) -> None:
    """Of several processes of a run the first one writes."""
    file.write_text(text)


def fit(
    stage: Stage, training: DataLoader[Batch], validation: DataLoader[Batch] | None, *, monitor: str | None
) -> dict[str, float]:
    """Train to the end, from the last checkpoint where there is one, and load the weights that are to be kept.

    Args:
        stage: what to train.
        training: batches of an epoch.
        validation: batches to look at after each epoch.
        monitor: the figure whose highest value marks the epoch to keep; None keeps the last.

    Returns:
        The figures at the end of the learning curves.
    """
    settings = stage.settings
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep = ModelCheckpoint(
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
        precision=settings.precision,
        accelerator=settings.accelerator,
        devices=settings.devices,
        callbacks=[
            keep,
            EMAWeightAveraging(decay=settings.ema_decay, use_buffers=True),
            LearningRateMonitor("epoch"),
            TQDMProgressBar(refresh_rate=10),
        ],
        logger=[CSVLogger(settings.out, "curves"), TensorBoardLogger(settings.out, "tensorboard")],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,  # ours gives each process its own part
        enable_model_summary=False,
    )
    stage.to(memory_format=torch.channels_last)
    last = settings.out / CHECKPOINTS / "last.ckpt"
    trainer.fit(stage, training, validation, ckpt_path=last if last.exists() else None, weights_only=True)
    kept = torch.load(keep.best_model_path or last, map_location="cpu", weights_only=True)
    stage.load_state_dict(kept["state_dict"])
    stage.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@rank_zero_only
def finish(settings: StageSettings, weights: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
    """Write the kept weights and, last of all, what was reached: a run with a result is complete.

    Of several processes of a run the first one writes.
    """
    torch.save(dict(weights), settings.out / WEIGHTS)
    (settings.out / RESULT).write_text(json.dumps(result, indent=2) + "\n")


def is_complete(out: Path) -> bool:
    """Whether a run wrote its result."""
    return (out / RESULT).is_file()


def load_settings(out: Path) -> dict[str, Any]:
    """The settings a complete run had.

    Raises:
        FileNotFoundError: the run is not there or not complete.
    """
    if not is_complete(out):
        raise FileNotFoundError(f"{out} holds no complete run ({RESULT} is missing)")
    settings: dict[str, Any] = json.loads((out / SETTINGS).read_text())
    return settings


def load_joint_settings(run: Path) -> dict[str, Any]:
    """The settings of a complete run of the joint stage.

    Raises:
        FileNotFoundError: the run is not there or not complete.
        ValueError: it is of another stage.
    """
    settings = load_settings(run)
    if "emotion" not in settings:
        raise ValueError(f"{run} is no run of the joint stage")
    return settings


def lineage(run: Path) -> dict[str, Path]:
    """A run and all that it stands on, each after those it was made from, by the names of their folders, with the
    folder above where two are alike.

    It stands on the runs whose weights it started from, and on those that taught it.
    """
    runs = list(dict.fromkeys(_ancestors(run)))
    alike = Counter(each.name for each in runs)
    return {each.name if alike[each.name] == 1 else f"{each.parent.name}/{each.name}": each for each in runs}


def _ancestors(run: Path) -> Iterator[Path]:
    settings = load_settings(run)
    parents = [settings.get(name) for name in ("identity", "start", "emotion")] + settings.get("taught_by", [])
    for parent in filter(None, parents):
        yield from _ancestors(Path(parent))
    yield run


def load_made_by(out: Path) -> dict[str, Any]:
    """Commit, torch version and machine a run was started with."""
    made_by: dict[str, Any] = json.loads((out / MADE_BY).read_text())
    return made_by


def load_result(out: Path) -> dict[str, Any]:
    """What a complete run reached."""
    result: dict[str, Any] = json.loads((out / RESULT).read_text())
    return result


def load_weights(out: Path) -> dict[str, Tensor]:
    """The weights a complete run kept; read without running anything in the file."""
    weights: dict[str, Tensor] = torch.load(out / WEIGHTS, map_location="cpu", weights_only=True)
    return weights


def commit() -> str:
    """The commit of this checkout, with "-dirty" where the code differs from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(  # noqa: S603 - fixed arguments
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
