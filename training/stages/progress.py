"""The progress of a stage on the terminal: one bar from its first step to its last, and the time left."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from training.timetable import Timetable, duration

FIRST_STEPS = 3
"""Steps that are slower than others, because memory is allocated and kernels are chosen."""

MEASURED_STEPS = 10
"""Steps after those, from which the time of a stage is estimated."""

LONG = 3 * 3600
"""Seconds from which a stage is long: whoever wanted to try something should hear of it at once."""


class StageProgress(ProgressBar):
    """A bar over all steps of a stage, an estimate after its first steps, and a warning if that is hours.

    Args:
        name: Name of the run.
        steps_per_epoch: Steps of an epoch.
        epochs: Epochs of the stage.
        timetable: The steps that this stage is one of; None if it runs alone.
    """

    def __init__(self, name: str, steps_per_epoch: int, epochs: int, timetable: Timetable | None) -> None:
        super().__init__()
        self._name, self._epochs, self._timetable = name, epochs, timetable
        self._steps = steps_per_epoch * epochs
        self._shown = True
        self._bar: tqdm[Any] | None = None
        self._done = 0
        self._measured_from = 0.0

    def enable(self) -> None:
        """Show the bar."""
        self._shown = True

    def disable(self) -> None:
        """Hide the bar, as in all but the first process."""
        self._shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where the run stands."""
        done = trainer.global_step
        # The mean speed over the run, because a bar that follows the last seconds jumps at each validation.
        self._bar = tqdm(
            total=self._steps, initial=done, unit=" steps", smoothing=0, mininterval=1, disable=not self._shown
        )
        self._describe(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the epoch."""
        self._describe(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on."""
        self._done += 1
        if self._done == FIRST_STEPS:
            self._measured_from = time.monotonic()
        if self._done == FIRST_STEPS + MEASURED_STEPS:
            self._estimate(trainer, (time.monotonic() - self._measured_from) / MEASURED_STEPS)
        if self._bar is not None:
            self._bar.update()
            if self._timetable:
                seconds = self._bar.format_dict["elapsed"] / self._done * (self._steps - trainer.global_step)
                self._bar.set_postfix_str(f"all steps {duration(self._timetable.left(seconds))}", refresh=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the loss and the scores of the epoch."""
        if self._shown:
            metrics = ", ".join(
                f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items()
            )
            tqdm.write(f"{self._name}, epoch {trainer.current_epoch + 1} of {self._epochs}: {metrics}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _describe(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.set_description(f"{self._name}, epoch {trainer.current_epoch + 1} of {self._epochs}")

    def _estimate(self, trainer: Trainer, seconds: float) -> None:
        if not self._shown:
            return
        left = self._steps - trainer.global_step
        text = f"{self._name}: {left:,} steps of {seconds:.2g} s are left, about {duration(left * seconds)}"
        if left * seconds > LONG:
            text += (
                "\nWarning: that is long. A GPU, a smaller --network or fewer --epochs make it shorter; an "
                "interrupted run goes on where it was"
            )
        tqdm.write(text, file=sys.stderr)
