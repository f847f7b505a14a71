"""Run the recipe: check the data, prepare them, train every stage, export."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from errno import ENOSPC
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from training.datasets.prepared import MANIFEST
from training.export.repository import export
from training.preparation.prepare import PREPARATIONS
from training.preparation.teacher import Teacher
from training.recipe.data import Source, read_sources
from training.recipe.estimate import seconds_to_export, seconds_to_prepare, seconds_to_train
from training.recipe.stages import plan_stages
from training.runs import (
    RECIPE,
    differing,
    is_complete,
    kept_score,
    load_result,
    shown_differences,
    with_defaults,
)
from training.settings.commands import ExportSettings, RecipeSettings
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings, StageSettings
from training.stages.expression import train_emotion, train_joint
from training.stages.identity import train_identity
from training.timetable import Timetable, duration

MARKERS = {"ferplus": "ferplus/train", "identity": "identity", "lfw": "lfw/dev-test"}
"""The folder that each kind of data set fills last."""

TRAINERS: dict[type[StageSettings], Callable[[Any, Timetable], None]] = {
    IdentitySettings: train_identity,
    EmotionSettings: train_emotion,
    JointSettings: train_joint,
}


def run_recipe(settings: RecipeSettings) -> None:
    """Prepare the data, train every stage and export; steps that are complete are skipped.

    Raises:
        ValueError: A step cannot be done; the message names it, and a remedy.
    """
    started = time.monotonic()
    sources = read_sources(settings)
    for kind, source in sources.items():
        print(f"{settings.data / kind}: {source.shown}")
    stages = plan_stages(settings)
    _keep_settings(settings)
    kinds = [kind for kind in sources if not (settings.prepared / MARKERS[kind] / MANIFEST).exists()]
    training = [stage for stage in stages if not is_complete(stage.out)]
    timetable = Timetable(_estimates(settings, sources, kinds, training, stages[-1]))
    for kind in kinds:
        with _step(f"prepare {kind}", timetable, settings):
            _prepare(kind, settings)
    for stage in training:
        with _step(stage.out.name, timetable, settings):
            TRAINERS[type(stage)](stage, timetable)
    with _step("export", timetable, settings):
        rank_zero_only(export)(ExportSettings(run=stages[-1].out, repository=settings.models))
    _summarize(settings, stages, time.monotonic() - started)


def _prepare(kind: str, settings: RecipeSettings) -> None:
    options: dict[str, Any] = {"shape": settings.crop_shape}
    if kind != "lfw":
        options["quick"] = settings.quick
    if kind == "identity":
        options["teacher"] = settings.teacher
    PREPARATIONS[kind](settings.data / kind, settings.prepared / kind, None, **options)


def _keep_settings(settings: RecipeSettings) -> None:
    """Write the settings beside the runs, or compare them with those that the runs were begun with."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    file = settings.folder / RECIPE
    text = json.dumps(asdict(settings), indent=2, default=str) + "\n"
    if file.exists():
        others = differing(with_defaults(settings, json.loads(file.read_text())), json.loads(text))
        if others:
            raise ValueError(
                f"{settings.folder} was begun with {shown_differences(others)}. Choose another --out; to train a "
                "single run further, use its own command with more --epochs"
            )
    file.write_text(text)


def _estimates(
    settings: RecipeSettings,
    sources: dict[str, Source],
    kinds: list[str],
    training: list[StageSettings],
    joint: StageSettings,
) -> dict[str, float]:
    """Return the seconds of each step that is to be done."""
    teacher = Teacher(settings.teacher) if settings.teacher and "identity" in kinds else None
    preparing = {
        f"prepare {kind}": seconds_to_prepare(sources[kind], teacher if kind == "identity" else None)
        for kind in kinds
    }
    trained = {stage.out.name: seconds_to_train(stage, settings, sources) for stage in training}
    return {**preparing, **trained, "export": seconds_to_export(joint, settings, sources)}


@contextmanager
def _step(name: str, timetable: Timetable, settings: RecipeSettings) -> Iterator[None]:
    """Name the step, and what helps, in each error."""
    timetable.begin(name)
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"step {name}: {error}") from error
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise ValueError(
            f"step {name}: no space is left in {settings.folder}; free some, and run the same command again: "
            "it goes on where it was"
        ) from error
    except (MemoryError, RuntimeError) as error:  # torch has one of its own for each device
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise ValueError(
            f"step {name}: out of memory; choose a smaller --batch_size, and another --out ({error})"
        ) from error
    timetable.finish()


def _summarize(settings: RecipeSettings, stages: list[StageSettings], seconds: float) -> None:
    print(f"\nDone in {duration(seconds)}. Scores of the kept weights:")
    for stage in stages:
        print(f"  {stage.out.name:15} {kept_score(load_result(stage.out))}")
    if settings.quick:
        print("This was a trial of every step on few images; these scores say nothing about the method.")
    print(f"Model and model card: {settings.models / 'tandem' / '1'}")
    print(f"Serve it: tandem serve --model-repository {settings.models}")
