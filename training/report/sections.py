"""What the report says, section by section: tables, plots and the words between them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.datasets.ferplus import majority_labels
from training.datasets.prepared import MANIFEST, load_prepared
from training.evaluation import compare as comparison
from training.evaluation import crossvalidate as crossvalidation
from training.evaluation import robustness
from training.evaluation.verify import Verification, verify_run
from training.protocols.breakdown import Breakdown, break_down
from training.protocols.ferplus import FerPlusScore
from training.report import figures
from training.report.curves import read_curves
from training.runs import lineage, load_joint_settings, load_made_by, load_result, load_settings
from training.settings.evaluation import ReportSettings
from training.stages.expression import score_prepared
from training.tables import Table, share, share_between
from training.trained_networks import read_expressions


@dataclass(frozen=True, eq=False)
class Plot:
    """A PNG, the name of its file, and what it shows."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it."""

    heading: str
    parts: tuple[Table | Plot | str, ...]


SOURCE = Table(
    "The source's figures beside these",
    ("what", "source", "its data"),
    (
        (
            "expressions, FER+",
            "84.29 %",
            "ResNet-18 beside the identity network; the rule for labels is not stated",
        ),
        ("expressions, CK+", "99.31 %", "327 sequences, 7 emotions; the folds are not stated"),
        ("identity, LFW", "91 %", "trained on the 494 k images of CASIA-WebFace; View 2"),
    ),
    "These figures are not comparable line by line: the source trains on CASIA-WebFace and reports test splits, "
    "where this page reports the splits that models are chosen on, under rules that it names.",
)


def write_sections(settings: ReportSettings) -> Iterator[Section]:
    """Every section that the run and the given files have something for.

    Raises:
        FileNotFoundError: the run, one before it or a given file is not there.
    """
    identity = Path(load_joint_settings(settings.run)["identity"])
    yield _runs(lineage(settings.run))
    yield _expressions(settings.run)
    lfw = settings.lfw or _trained_with(identity)
    if lfw:
        yield _identity(verify_run(identity, lfw))
    if settings.comparison:
        yield _comparison(settings.comparison)
    if settings.crossvalidation:
        yield Section("CK+", (crossvalidation.table(json.loads(settings.crossvalidation.read_text())),))
    if settings.robustness:
        yield Section("Faces in photos", (robustness.table(json.loads(settings.robustness.read_text())),))
    yield Section("The method's source", (SOURCE,))


def _trained_with(run: Path) -> Path | None:
    """The prepared LFW that chose an identity run's epoch, where it is still there."""
    lfw = load_settings(run)["lfw"]
    return Path(lfw) if lfw and (Path(lfw) / "dev-test" / MANIFEST).is_file() else None


def _runs(runs: dict[str, Path]) -> Section:
    rows = []
    for name, run in runs.items():
        settings, made_by = load_settings(run), load_made_by(run)
        network = settings.get("network", "tandem")
        shown = (network, f"{load_result(run)['images']:,}", str(settings["epochs"]), str(settings["batch_size"]))
        rows.append(
            (name, *shown, f"{settings['learning_rate']:g}", str(settings["seed"]), made_by["commit"][:12])
        )
    table = Table(
        "Runs", ("stage", "network", "images", "epochs", "batch", "peak rate", "seed", "commit"), tuple(rows)
    )
    curves = figures.draw_curves({name: read_curves(run) for name, run in runs.items()})
    return Section("How it was trained", (table, Plot("curves", curves, "Learning curves.")))


def _expressions(run: Path) -> Section:
    valid = load_prepared(Path(load_settings(run)["data"]) / "valid")
    probabilities = read_expressions(run, valid.crops)
    reached = score_prepared(probabilities, valid)
    detail = break_down(probabilities, majority_labels(valid.arrays["votes"]), valid.aligned)
    return Section(
        "Expressions: FER+ Valid",
        (
            "As trained, before the calibration that the export adds. The epoch was chosen on this split.",
            _scores(reached, detail),
            Plot(
                "confusion", figures.draw_confusion(detail), "Answers by label: per cent of the label, and images."
            ),
            Plot("recall", figures.draw_recall(detail), "Recall by emotion, with Wilson's intervals."),
            Plot("reliability", figures.draw_reliability(detail), "Accuracy over confidence (majority rule)."),
        ),
    )


def _scores(reached: FerPlusScore, detail: Breakdown) -> Table:
    rows = []
    for rule, figure in (("majority", reached.majority), ("argmax", reached.argmax)):
        bounds = share_between(detail.accuracy.low, detail.accuracy.high) if rule == "majority" else ""
        shown = (figure.macro_recall, figure.macro_f1, figure.calibration_error)
        rows.append((rule, f"{figure.rows:,}", share(figure.accuracy), bounds, *map(share, shown)))
    f1, recall = detail.macro_f1, detail.macro_recall
    return Table(
        "FER+ Valid under both rules",
        ("rule", "rows", "accuracy %", "95 %", "macro recall %", "macro F1 %", "ECE %"),
        tuple(rows),
        f"No face was found in {reached.unanswered:,} images, which count as wrong. 95 % intervals by the "
        f"bootstrap; by majority, macro recall {share_between(recall.low, recall.high)}, "
        f"macro F1 {share_between(f1.low, f1.high)}.",
    )


def _identity(found: Verification) -> Section:
    view = "View 2" if found.view2 else "View 1, dev-test"
    roc = figures.draw_roc(found.similarities, found.same)
    return Section("Identity: LFW", (found.table(), Plot("roc", roc, f"ROC, {view}.")))


def _comparison(file: Path) -> Section:
    result = json.loads(file.read_text())
    methods = result["methods"]
    major = [methods[name]["majority"] for name in methods]
    plot = figures.draw_comparison(
        list(methods),
        [100 * each["mean"] for each in major],
        [100 * each["interval"]["low"] for each in major],
        [100 * each["interval"]["high"] for each in major],
    )
    parts = (comparison.table(result), Plot("comparison", plot, "Accuracy by majority of each method."))
    return Section("The comparison that the method rests on", parts)
