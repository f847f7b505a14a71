"""Learning curves out of a run's CSV logs."""

import csv
from pathlib import Path

Curve = dict[int, float]
"""Epoch to value."""


def read_curves(run: Path) -> dict[str, Curve]:
    """Every figure a run logged, by name; of an epoch that was resumed within, the last log counts.

    Raises:
        FileNotFoundError: the run has no log.
    """
    logs = sorted((run / "curves").glob("version_*/metrics.csv"), key=_version)
    if not logs:
        raise FileNotFoundError(f"{run / 'curves'} holds no version_*/metrics.csv: the run logged nothing")
    curves: dict[str, Curve] = {}
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                if not row.get("epoch"):  # learning rates are logged by step
                    continue
                for name, value in row.items():
                    if value and name not in ("epoch", "step"):
                        curves.setdefault(name, {})[int(row["epoch"])] = float(value)
    return curves


def _version(log: Path) -> int:
    return int(log.parent.name.removeprefix("version_"))
