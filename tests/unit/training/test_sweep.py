import json

import pytest

from training.settings.stages import IdentitySettings
from training.sweep import Run, combinations, folder_name, summarize, table


def test_every_combination_of_values_is_made():
    arguments = ["--data", "sets/a", "--seed", "1,2", "--network=small-resnet,resnet18", "--epochs", "3"]
    found = combinations(arguments)
    assert [values for values, _ in found] == [
        {"seed": seed, "network": network} for seed in ("1", "2") for network in ("small-resnet", "resnet18")
    ]
    fixed = ["--data", "sets/a", "--epochs", "3"]
    assert found[1][1] == [*fixed, "--seed=1", "--network=resnet18"]


def test_lists_and_mappings_are_one_value():
    arguments = ["--also", "{a: 0.5, b: 1}", "--loggers", "[csv,wandb]", "--start", "runs/a,runs/b"]
    found = combinations(arguments)
    assert [given for _, given in found] == [[*arguments[:4], f"--start=runs/{name}"] for name in "ab"]
    assert folder_name(found[0][0]) == "start=runs_a"


def test_a_sweep_of_one_run_is_rejected():
    with pytest.raises(ValueError, match="no option has several values"):
        combinations(["--seed", "1", "--also", "{a: 0.5, b: 1}"])


@pytest.mark.parametrize(
    ("result", "columns", "cells"),
    [
        (
            [{"lfw_view1_accuracy": value} for value in (0.8, 0.9, 0.9, 0.94)],
            ("margin", "seeds", "LFW View 1 %", "95 %", "gain over the first (95 %)"),
            ("0.2", "2", "92.00 ± 2.83", "90.00 to 94.00", "+7.00 (4.00 to 10.00)"),
        ),
        (
            [{"curves": {"loss": value}} for value in (3.0, 3.5, 2.0, 2.0)],
            ("margin", "seeds", "loss", "95 %", "gain over the first (95 %)"),
            ("0.2", "2", "2.00 ± 0.00", "2.00 to 2.00", "-1.25 (-1.50 to -1.00)"),
        ),
    ],
)
def test_identity_networks_are_scored_over_seeds(tmp_path, result, columns, cells):
    runs = []
    for index, values in enumerate([("0.1", 1), ("0.1", 2), ("0.2", 1), ("0.2", 2)]):
        settings = IdentitySettings(
            out=tmp_path / str(index), data=tmp_path, margin=float(values[0]), seed=values[1]
        )
        settings.out.mkdir()
        (settings.out / "settings.json").write_text(json.dumps({"stage": "identity"}))
        (settings.out / "result.json").write_text(json.dumps(result[index]))
        runs.append(Run({"margin": values[0], "seed": str(values[1])}, settings))
    shown = table(summarize(runs))
    assert shown.columns == columns
    assert shown.rows[1] == cells
    assert shown.rows[0][-1] == ""
