"""The `training` command: one sub-command a step."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from training.datasets.prepared import PREPARATIONS
from training.settings.evaluation import (
    CompareSettings,
    CrossvalidateSettings,
    ReportSettings,
    RobustnessSettings,
    VerifySettings,
)
from training.settings.stages import (
    EmotionSettings,
    EvaluateSettings,
    ExportSettings,
    IdentitySettings,
    JointSettings,
    RecipeSettings,
)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Cut the face out of every image of a data set, with the service's own pipeline."""

    kind: str
    """ferplus, identity, lfw or ckplus."""
    source: Path
    """Folder with the data set as it is downloaded."""
    out: Path
    """Folder for the prepared set."""
    workers: int | None = None
    """Processes; as many as there are cores unless given."""
    teacher: Path | None = None
    """ONNX network whose embeddings of each face are kept as a second target; with identity only. It takes
    [1, 3, 112, 112]: RGB on ArcFace's template, (value - 127.5) / 128."""
    neutral: bool = False
    """Take the first frame of each sequence as neutral; with ckplus only."""

    def __post_init__(self) -> None:
        if self.kind not in PREPARATIONS:
            raise ValueError(f"kind is {self.kind!r}; there are {', '.join(PREPARATIONS)}")
        if self.teacher and self.kind != "identity":
            raise ValueError(f"teacher is {self.teacher}; it goes with kind identity, not {self.kind}")
        if self.neutral and self.kind != "ckplus":
            raise ValueError(f"neutral goes with kind ckplus, not {self.kind}")
        if not self.source.is_dir():
            raise ValueError(f"source is {self.source}, which is no folder")


def prepare(settings: PrepareSettings) -> None:
    """Prepare one data set."""
    options: dict[str, dict[str, Any]] = {
        "identity": {"teacher": settings.teacher},
        "ckplus": {"neutral": settings.neutral},
    }
    extra = options.get(settings.kind, {})
    PREPARATIONS[settings.kind](settings.source, settings.out, settings.workers, **extra)


def identity(settings: IdentitySettings) -> None:
    """Stage one."""
    from training.stages.identity import train_identity

    train_identity(settings)


def emotion(settings: EmotionSettings) -> None:
    """Stage two."""
    from training.stages.expression import train_emotion

    train_emotion(settings)


def joint(settings: JointSettings) -> None:
    """Stage three."""
    from training.stages.expression import train_joint

    train_joint(settings)


def export(settings: ExportSettings) -> None:
    """To the model repository."""
    from training.export.repository import export

    export(settings)


def evaluate(settings: EvaluateSettings) -> None:
    """Score FER+."""
    from training.evaluation.evaluate import evaluate

    evaluate(settings)


def verify(settings: VerifySettings) -> None:
    """Score LFW."""
    from training.evaluation.verify import verify

    verify(settings)


def crossvalidate(settings: CrossvalidateSettings) -> None:
    """Train and score CK+."""
    from training.evaluation.crossvalidate import crossvalidate

    crossvalidate(settings)


def compare(settings: CompareSettings) -> None:
    """The parts against the whole."""
    from training.evaluation.compare import compare

    compare(settings)


def robustness(settings: RobustnessSettings) -> None:
    """Score FER+ in photos."""
    from training.evaluation.robustness import measure

    measure(settings)


def report(settings: ReportSettings) -> None:
    """Pages of tables and plots."""
    from training.report.page import write_report

    write_report(settings)


def recipe(settings: RecipeSettings) -> None:
    """Every step."""
    from training.recipe import run_recipe

    run_recipe(settings)


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "prepare": (PrepareSettings, prepare),
    "identity": (IdentitySettings, identity),
    "emotion": (EmotionSettings, emotion),
    "joint": (JointSettings, joint),
    "export": (ExportSettings, export),
    "evaluate": (EvaluateSettings, evaluate),
    "verify": (VerifySettings, verify),
    "crossvalidate": (CrossvalidateSettings, crossvalidate),
    "compare": (CompareSettings, compare),
    "robustness": (RobustnessSettings, robustness),
    "report": (ReportSettings, report),
    "all": (RecipeSettings, recipe),
}


def build_parser() -> ArgumentParser:
    """The parser of every sub-command; its options are the fields of that step's settings."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="training", description=__doc__)
    commands = parser.add_subcommands()
    for name, (settings, _) in COMMANDS.items():
        command = ArgumentParser(description=settings.__doc__)
        command.add_argument("--config", action="config", help="YAML file with these options.")
        command.add_class_arguments(settings, fail_untyped=True)
        commands.add_subcommand(name, command, help=(settings.__doc__ or "").partition("\n")[0])
    return parser


def app(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; 1 where its input is wrong."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    name = parsed.subcommand
    options = parser.instantiate(parsed)[name].as_dict()
    options.pop("config", None)
    settings, run = COMMANDS[name]
    try:
        run(settings(**options))
    except (ValueError, FileNotFoundError) as error:
        print(f"training {name}: {error}", file=sys.stderr)
        return 1
    return 0
