"""The `training` command, with one sub-command for each step."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from service.errors import install_command
from training.settings.bundle import BundleSettings, UnbundleSettings
from training.settings.commands import (
    ExportSettings,
    PrepareSettings,
    RecipeSettings,
    ReportSettings,
    RestoreSettings,
)
from training.settings.evaluation import (
    CompareSettings,
    CrossvalidateSettings,
    EvaluateSettings,
    RobustnessSettings,
    VerifySettings,
)
from training.settings.occlusion import OcclusionSettings
from training.settings.stages import EmotionSettings, IdentitySettings, JointSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def prepare(settings: PrepareSettings) -> None:
    """Prepare one data set."""
    from training.preparation.prepare import PREPARATIONS

    options: dict[str, dict[str, Any]] = {
        "identity": {"teacher": settings.teacher, "wide": settings.wide},
        "ckplus": {"neutral": settings.neutral},
    }
    extra = options.get(settings.kind, {})
    prepare_kind = PREPARATIONS[settings.kind]
    prepare_kind(settings.source, settings.out, settings.workers, shape=settings.crop_shape, **extra)


def identity(settings: IdentitySettings) -> None:
    """Run the identity stage."""
    from training.stages.identity import train_identity

    train_identity(settings)


def emotion(settings: EmotionSettings) -> None:
    """Run the emotion stage."""
    from training.stages.expression import train_emotion

    train_emotion(settings)


def joint(settings: JointSettings) -> None:
    """Run the joint stage."""
    from training.stages.expression import train_joint

    train_joint(settings)


def export(settings: ExportSettings) -> None:
    """Export a joint run."""
    from training.export.repository import export

    export(settings)


def restore(settings: RestoreSettings) -> None:
    """Restore the runs of an exported model."""
    from training.export.restore import restore

    restore(settings)


def bundle(settings: BundleSettings) -> None:
    """Write a bundle."""
    from training.bundle.pack import pack

    pack(settings)


def unbundle(settings: UnbundleSettings) -> None:
    """Write the runs of a bundle."""
    from training.bundle.parts import unbundle

    unbundle(settings)


def evaluate(settings: EvaluateSettings) -> None:
    """Score FER+."""
    from training.evaluation.evaluate import evaluate

    evaluate(settings)


def verify(settings: VerifySettings) -> None:
    """Score LFW."""
    from training.evaluation.verify import verify

    verify(settings)


def crossvalidate(settings: CrossvalidateSettings) -> None:
    """Train on and score CK+."""
    from training.evaluation.crossvalidate import crossvalidate

    crossvalidate(settings)


def compare(settings: CompareSettings) -> None:
    """Compare the tandem with its parts."""
    from training.evaluation.compare import compare

    compare(settings)


def robustness(settings: RobustnessSettings) -> None:
    """Score FER+ in photos."""
    from training.evaluation.robustness import measure_robustness

    measure_robustness(settings)


def occlusion(settings: OcclusionSettings) -> None:
    """Fit how hidden features are recognized."""
    from training.occlusion.fit import fit_occlusion

    fit_occlusion(settings)


def report(settings: ReportSettings) -> None:
    """Write the report."""
    from training.report.page import write_report

    write_report(settings)


def recipe(settings: RecipeSettings) -> None:
    """Run every step."""
    from training.recipe.run import run_recipe

    run_recipe(settings)


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "prepare": (PrepareSettings, prepare),
    "identity": (IdentitySettings, identity),
    "emotion": (EmotionSettings, emotion),
    "joint": (JointSettings, joint),
    "export": (ExportSettings, export),
    "restore": (RestoreSettings, restore),
    "bundle": (BundleSettings, bundle),
    "unbundle": (UnbundleSettings, unbundle),
    "evaluate": (EvaluateSettings, evaluate),
    "verify": (VerifySettings, verify),
    "crossvalidate": (CrossvalidateSettings, crossvalidate),
    "compare": (CompareSettings, compare),
    "robustness": (RobustnessSettings, robustness),
    "occlusion": (OcclusionSettings, occlusion),
    "report": (ReportSettings, report),
    "all": (RecipeSettings, recipe),
}


SWEEPABLE = ("identity", "emotion", "joint")

SWEEP = """Train a stage with each combination of several values of its options, and tabulate the scores.

After the name of the stage, identity, emotion or joint, come its own options, any of them with several values:
training sweep emotion --data prepared/ferplus --out runs/sweep --learning_rate 0.05,0.1 --seed 1,2,3
"""


def sweep(parser: "ArgumentParser", arguments: Sequence[str]) -> None:
    """Run a stage with each combination of the values in the arguments."""
    from training.sweep import Run, combinations, folder_name, run_sweep

    stage, *options = arguments
    if stage not in SWEEPABLE:
        raise ValueError(f"stage is {stage!r}; it must be one of {', '.join(SWEEPABLE)}")
    runs = []
    for values, given in combinations(options):
        settings = read_settings(parser, [stage, *given])[1]
        runs.append(Run(values, replace(settings, out=settings.out / folder_name(values))))
    run_sweep(runs[0].settings.out.parent, runs, COMMANDS[stage][1])


MISSING = f"training needs more packages than serving: {install_command('training')}"


def build_parser() -> "ArgumentParser":
    """Build the parser of all sub-commands; the options of each are the fields of its settings class."""
    try:
        from jsonargparse import ArgumentParser, set_parsing_settings
    except ImportError as error:
        sys.exit(f"{MISSING} ({error})")

    from training.bundle.command import RUN_BUNDLE

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="training", description=__doc__)
    commands = parser.add_subcommands()
    for name, (settings, _) in COMMANDS.items():
        command = ArgumentParser(description=settings.__doc__)
        command.add_argument("--config", action="config", help="YAML file with these options.")
        command.add_class_arguments(settings, fail_untyped=True)
        commands.add_subcommand(name, command, help=(settings.__doc__ or "").partition("\n")[0])
    commands.add_subcommand("run-bundle", ArgumentParser(), help=RUN_BUNDLE)
    commands.add_subcommand("sweep", ArgumentParser(description=SWEEP), help=SWEEP.partition("\n")[0])
    return parser


def _with_values(arguments: Sequence[str]) -> list[str]:
    """Let a switch stand alone: --quick is --quick true."""
    settings, _ = COMMANDS.get(arguments[0] if arguments else "", (None, None))
    switches = {f"--{each.name}" for each in fields(settings) if each.type is bool} if settings else set()
    given: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        given += [argument, "true"] if argument in switches and following not in ("true", "false") else [argument]
    return given


def read_settings(parser: "ArgumentParser", arguments: Sequence[str]) -> tuple[str, Any]:
    """Return the name of a sub-command and the settings that its arguments give.

    Raises:
        ValueError: A value is out of its range.
    """
    parsed = parser.parse_args(_with_values(arguments))
    name: str = parsed.subcommand
    options = parser.instantiate(parsed)[name].as_dict()
    options.pop("config", None)
    return name, COMMANDS[name][0](**options)


def app(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit status: 1 if its input is invalid."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["run-bundle"]:  # without jsonargparse, which a machine that is lent need not have
        from training.bundle.command import main

        return main(arguments[1:])
    parser = build_parser()
    name = arguments[0] if arguments else ""
    try:
        if name == "sweep" and len(arguments) > 1 and not arguments[1].startswith("-"):
            sweep(parser, arguments[1:])
            return 0
        name, settings = read_settings(parser, arguments)
        COMMANDS[name][1](settings)
    except ModuleNotFoundError as error:
        print(f"training {name}: {MISSING} ({error})", file=sys.stderr)
        return 1
    except (ValueError, FileNotFoundError) as error:
        print(f"training {name}: {error}", file=sys.stderr)
        return 1
    return 0
