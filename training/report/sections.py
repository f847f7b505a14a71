"""The sections of the report: tables, plots and text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.datasets.ferplus import majority_labels
from training.datasets.prepared import MANIFEST, load_prepared
from training.evaluation import compare, crossvalidate, robustness
from training.evaluation.verify import Verification, verify_run
from training.protocols.breakdown import Breakdown, break_down
from training.protocols.ferplus import FerPlusScore, score_prepared
from training.report import figures
from training.report.curves import read_curves
from training.runs import lineage, load_provenance, load_result, load_settings
from training.settings.commands import ReportSettings
from training.tables import Table, percent, percent_range
from training.trained import predict_expressions


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot: its file name without suffix, PNG data, and caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and the tables, plots and paragraphs below it."""

    heading: str
    parts: tuple[Table | Plot | str, ...]


PUBLISHED = Table(
    "Results published for the method",
    ("task", "accuracy", "data"),
    (
        (
            "expressions, FER+",
            "84.29 %",
            "ResNet-18 joined with the identity network; the rule for labels is not stated",
        ),
        ("expressions, CK+", "99.31 %", "327 sequences, 7 emotions; the folds are not stated"),
        ("identity, LFW", "91 %", "trained on the 494 k images of CASIA-WebFace; View 2"),
    ),
    "These scores cannot be compared directly with those above: the published method was trained on CASIA-WebFace "
    "and scored on test splits, while this page reports the splits that models are chosen on, under the rules it "
    "names.",
)


def write_sections(settings: ReportSettings) -> Iterator[Section]:
    """Write the sections that the run and the given files have results for.

    Raises:
        FileNotFoundError: The run, a run it was made from or a given file does not exist.
        ValueError: The run is of another stage.
    """
    identity = Path(load_settings(settings.run, "joint")["identity"])
    yield _runs(lineage(settings.run))
    yield _expressions(settings.run)
    lfw = settings.lfw or _trained_with(identity)
    if lfw:
        yield _identity(verify_run(identity, lfw))
    if settings.comparison:
        yield _comparison(settings.comparison)
    if settings.crossvalidation:
        yield Section("CK+", (crossvalidate.table(json.loads(settings.crossvalidation.read_text())),))
    if settings.robustness:
        yield Section("Faces in photos", (robustness.table(json.loads(settings.robustness.read_text())),))
    yield Section("Published results", (PUBLISHED,))


def _trained_with(run: Path) -> Path | None:
    """Return the prepared LFW that an identity run was validated on, if it still exists."""
    lfw = load_settings(run, "identity").get("lfw")
    return Path(lfw) if lfw and (Path(lfw) / "dev-test" / MANIFEST).is_file() else None


def _runs(runs: dict[str, Path]) -> Section:
    rows = []
    for name, run in runs.items():
        settings, provenance = load_settings(run), load_provenance(run)
        network = settings.get("network", settings["stage"])
        shown = (network, f"{load_result(run)['images']:,}", str(settings["epochs"]), str(settings["batch_size"]))
        rows.append(
            (name, *shown, f"{settings['learning_rate']:g}", str(settings["seed"]), provenance["commit"][:12])
        )
    table = Table(
        "Runs", ("run", "network", "images", "epochs", "batch", "peak rate", "seed", "commit"), tuple(rows)
    )
    # A run of a bundle, or one that was restored, has no log.
    logged = {name: read_curves(run) for name, run in runs.items() if (run / "curves").is_dir()}
    if not logged:
        return Section("Training", (table,))
    return Section("Training", (table, Plot("curves", figures.draw_curves(logged), "Learning curves.")))


def _expressions(run: Path) -> Section:
    valid = load_prepared(Path(load_settings(run)["data"]) / "valid")
    probabilities = predict_expressions(run, valid.crops)
    scores = score_prepared(probabilities, valid)
    detail = break_down(probabilities, majority_labels(valid.arrays["votes"]), valid.aligned)
    return Section(
        "Expressions: FER+ Valid",
        (
            "Scores of the network as trained, before calibration. The epoch was chosen on this split.",
            _scores(scores, detail),
            Plot(
                "confusion",
                figures.draw_confusion(detail),
                "Predictions by label: percent of the label, and number of images.",
            ),
            Plot("recall", figures.draw_recall(detail), "Recall by emotion, with Wilson's 95 % intervals."),
            Plot("reliability", figures.draw_reliability(detail), "Accuracy over confidence (majority rule)."),
        ),
    )


def _scores(scores: FerPlusScore, detail: Breakdown) -> Table:
    rows = []
    for rule, figure in (("majority", scores.majority), ("argmax", scores.argmax)):
        bounds = percent_range(detail.accuracy.low, detail.accuracy.high) if rule == "majority" else ""
        shown = (figure.macro_recall, figure.macro_f1, figure.calibration_error)
        rows.append((rule, f"{figure.rows:,}", percent(figure.accuracy), bounds, *map(percent, shown)))
    f1, recall = detail.macro_f1, detail.macro_recall
    return Table(
        "FER+ Valid under both rules",
        ("rule", "rows", "accuracy %", "95 %", "macro recall %", "macro F1 %", "ECE %"),
        tuple(rows),
        f"No face was found in {scores.unanswered:,} images, which count as wrong. 95 % intervals are from the "
        f"bootstrap. By majority: macro recall {percent_range(recall.low, recall.high)}, "
        f"macro F1 {percent_range(f1.low, f1.high)}.",
    )


def _identity(verification: Verification) -> Section:
    view = "View 2" if verification.view2 else "View 1, dev-test"
    roc = figures.draw_roc(verification.similarities, verification.same)
    return Section("Identity: LFW", (verification.table(), Plot("roc", roc, f"ROC, {view}.")))


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
    parts = (compare.table(result), Plot("comparison", plot, "Accuracy by majority of each method."))
    return Section("The tandem and its parts", parts)
