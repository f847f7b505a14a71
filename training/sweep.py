"""A sweep: a stage with each combination of several values of its options, and a table of the scores."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from training.datasets.ferplus import DROPPED, majority_labels
from training.datasets.prepared import load_prepared
from training.protocols.bootstrap import interval_over_runs
from training.protocols.readings import choosing_half
from training.runs import is_complete, load_result, other_settings
from training.settings.stages import ExpressionSettings, StageSettings
from training.tables import Table, percent, percent_range
from training.trained import predict_expressions

RESULT, PAGE = "sweep.json", "sweep.md"
SEED = "seed"
CHOOSING, REPORTING, LFW, LOSS = "choosing half", "reporting half", "LFW View 1", "loss"


@dataclass(frozen=True, eq=False)
class Run:
    """A run of the sweep: the values that other runs have otherwise, and all its settings."""

    values: Mapping[str, str]
    settings: StageSettings


def combinations(arguments: Sequence[str]) -> list[tuple[dict[str, str], list[str]]]:
    """Return each combination of options with several values, such as 1,2,3, and the arguments that it stands for.

    Lists and mappings, in brackets and braces, are one value.

    Raises:
        ValueError: No option has several values.
    """
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    varied: dict[str, list[str]] = {}
    fixed: list[str] = []
    for place, word in enumerate(words):
        option = words[place - 1] if place else ""
        if option.startswith("--") and "," in word and word[0] not in "[{":
            fixed.pop()
            varied[option.removeprefix("--")] = word.split(",")
        else:
            fixed.append(word)
    if not varied:
        raise ValueError("no option has several values; give at least one of them some, such as --seed 1,2,3")
    combined = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    return [(each, [*fixed, *(f"--{name}={value}" for name, value in each.items())]) for each in combined]


def folder_name(values: Mapping[str, str]) -> str:
    """Return the name of a run's folder in that of the sweep."""
    return ",".join(f"{name}={value.replace('/', '_')}" for name, value in values.items())


def run_sweep(out: Path, runs: Sequence[Run], train: Callable[[Any], None]) -> None:
    """Train every run that is not complete, and print and write the table.

    Args:
        out: Folder of the sweep.
        runs: Its runs, each with a folder of its own.
        train: Trains a stage.

    Raises:
        ValueError: A run was begun with other settings.
    """
    for place, run in enumerate(runs, start=1):
        if is_complete(run.settings.out) and not other_settings(run.settings):
            continue
        print(f"\n[{place} of {len(runs)}] {run.settings.out.name}", flush=True)
        train(run.settings)
    _write_table(out, runs)


@rank_zero_only
def _write_table(out: Path, runs: Sequence[Run]) -> None:
    result = summarize(runs)
    (out / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    (out / PAGE).write_text(table(result).markdown())
    table(result).print()


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Return for JSON the scores of each combination: mean, standard deviation over seeds, and intervals."""
    rows: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        rows.setdefault(tuple(value for name, value in run.values.items() if name != SEED), []).append(run)
    found = []
    first: dict[str, NDArray[np.float64]] = {}
    for same in rows.values():
        scores = [_score(run.settings) for run in same]
        values = {name: np.stack([each[name] for each in scores]) for name in scores[0]}  # [seeds, images]
        first = first or values
        found.append(
            {
                "values": {name: value for name, value in same[0].values.items() if name != SEED},
                "seeds": [run.settings.seed for run in same],
                "scores": {name: _figures(each, each - first[name]) for name, each in values.items()},
            }
        )
    return {"stage": runs[0].settings.stage, "rows": found}


def _figures(values: NDArray[np.float64], gain: NDArray[np.float64]) -> dict[str, Any]:
    """Return the figures of values [seeds, images] and of their paired difference to the first combination."""
    of_seeds = values.mean(axis=1)
    return {
        "seeds": of_seeds.tolist(),
        "mean": float(of_seeds.mean()),
        "deviation": float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None,
        "interval": asdict(interval_over_runs(values)),
        "gain": float(gain.mean()),
        "gain_interval": asdict(interval_over_runs(gain)),
    }


def _score(settings: StageSettings) -> dict[str, NDArray[np.float64]]:
    """Return the scores of a complete run, each [images] or, of the identity stage, [1]."""
    if not isinstance(settings, ExpressionSettings):
        result = load_result(settings.out)
        if "lfw_view1_accuracy" in result:
            return {LFW: np.array([result["lfw_view1_accuracy"]])}
        return {LOSS: np.array([result["curves"]["loss"]])}
    valid = load_prepared(settings.data / "valid")
    labels, half = majority_labels(valid.arrays["votes"]), choosing_half(valid)
    correct = (predict_expressions(settings.out, valid.crops).argmax(axis=1) == labels) & valid.aligned
    known = labels != DROPPED
    return {
        name: correct[known & rows].astype(np.float64) for name, rows in ((CHOOSING, half), (REPORTING, ~half))
    }


def table(result: Mapping[str, Any]) -> Table:
    """Tabulate the combinations."""
    first = result["rows"][0]
    columns = [*first["values"], "seeds"]
    for name in first["scores"]:
        columns += [name if name == LOSS else f"{name} %", "95 %", "gain over the first (95 %)"]
    rows = []
    for row in result["rows"]:
        cells = [*row["values"].values(), str(len(row["seeds"]))]
        for name, figures in row["scores"].items():
            cells += _cells(figures, 0.01 if name == LOSS else 1.0)
            if row is first:
                cells[-1] = ""
        rows.append(tuple(cells))
    return Table(
        f"Sweep of the {result['stage']} stage",
        tuple(columns),
        tuple(rows),
        "Accuracy by majority; ± is the standard deviation over seeds. Intervals: bootstrap over seeds and, for "
        "expressions, images; gains are paired. Choose by the choosing half, and report the other.",
    )


def _cells(figures: Mapping[str, Any], factor: float) -> tuple[str, str, str]:
    spread = "" if figures["deviation"] is None else f" ± {percent(factor * figures['deviation'])}"
    bounds, gains = (
        percent_range(**{bound: factor * value for bound, value in figures[name].items()})
        for name in ("interval", "gain_interval")
    )
    gain = f"{100 * factor * figures['gain']:+.2f} ({gains})"
    return f"{percent(factor * figures['mean'])}{spread}", bounds, gain
