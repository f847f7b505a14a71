"""What a stage says about its length."""

from types import SimpleNamespace

import pytest

from training.stages import progress
from training.stages.progress import FIRST_STEPS, MEASURED_STEPS, StageProgress


@pytest.mark.parametrize(
    ("epochs", "left", "long"),
    [
        (36, "2 h 0 min", False),  # 100 steps of 2 s an epoch
        (72, "4 h 0 min", True),
    ],
)
def test_a_stage_that_takes_hours_says_so_after_its_first_steps(monkeypatch, capsys, epochs, left, long):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = StageProgress("emotion", steps_per_epoch=100, epochs=epochs, timetable=None)
    trainer = SimpleNamespace(global_step=0, current_epoch=0)
    bar.on_train_start(trainer, None)
    for step in range(1, FIRST_STEPS + MEASURED_STEPS + 1):
        now += 60 if step <= FIRST_STEPS else 2  # the first steps are slower, and tell nothing
        trainer.global_step = step
        bar.on_train_batch_end(trainer, None, None, None, step)
        shown = capsys.readouterr().err
        assert ("are left" in shown) == (step == FIRST_STEPS + MEASURED_STEPS)
    bar.on_train_end(trainer, None)
    assert f"of 2 s are left, about {left}" in shown
    assert ("Warning: that is long." in shown) == long
