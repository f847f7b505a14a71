"""Where the curves of a stage are logged: a CSV file, TensorBoard, Weights & Biases, MLflow."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from training.settings.stages import StageSettings

PROJECT = "tandem"
"""Project of Weights & Biases and experiment of MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME is set."""


def build_loggers(settings: StageSettings) -> list[Logger]:
    """Return the loggers of a run, each with its settings; the packages of all are installed."""
    out = settings.out
    loggers: list[Logger] = [CSVLogger(out, "curves")]
    if "tensorboard" in settings.loggers:
        loggers.append(TensorBoardLogger(out, "tensorboard", default_hp_metric=False))
    if "wandb" in settings.loggers:
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        loggers.append(WandbLogger(project=project, name=out.name, save_dir=out))
    if "mlflow" in settings.loggers:
        # Lightning would read the address when it is imported, and would write files without one.
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        loggers.append(MLFlowLogger(experiment, run_name=out.name, tracking_uri=uri))
    options = json.loads(json.dumps(asdict(settings), default=str))
    for logger in loggers[1:]:  # the folder of the run has them already
        logger.log_hyperparams(options)
    return loggers


def close_loggers(loggers: Iterable[Logger]) -> None:
    """Finish the run of Weights & Biases, which the next stage of this process would go on with."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
