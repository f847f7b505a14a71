import pytest

from training.sweep import combinations, folder_name


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
