"""Learning curves, read from the CSV logs of a run."""

import csv
from pathlib import Path

Curve = dict[int, float]
"""Values by epoch."""


def read_curves(run: Path) -> dict[str, Curve]:
    """Read every metric that a run logged, by name; for an epoch that was resumed, the last log counts.

    Raises:
        FileNotFoundError: The run has no log.
    """
    logs = sorted((run / "curves").glob("version_*/metrics.csv"), key=_version)
    if not logs:
        raise FileNotFoundError(f"{run / 'curves'} holds no version_*/metrics.csv; the run has logged nothing")
    curves: dict[str, Curve] = {}
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                if not row.get("epoch"):  # learning rates are logged by step, not by epoch
                    continue
                for name, value in row.items():
                    if value and name not in ("epoch", "step"):
                        curves.setdefault(name, {})[int(row["epoch"])] = float(value)
    return curves


def _version(log: Path) -> int:
    return int(log.parent.name.removeprefix("version_"))
