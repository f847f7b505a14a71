"""Runs that a comparison or a cross-validation finds complete are used only if it would have made the same."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from training.datasets.prepared import PreparedSet
from training.evaluation import compare, crossvalidate
from training.runs import write_run
from training.settings.evaluation import CompareSettings, CrossvalidateSettings


@pytest.fixture
def trained(monkeypatch):
    """Record the names of the runs instead of training them."""
    names = []

    def train(settings):
        names.append(settings.out.name)
        values = json.loads(json.dumps({"stage": settings.stage, **asdict(settings)}, default=str))
        write_run(settings.out, values, {}, {}, None)

    for module, stages in ((compare, ("emotion", "joint", "probe")), (crossvalidate, ("emotion", "joint"))):
        for stage in stages:
            monkeypatch.setattr(module, f"train_{stage}", train)
    return names


def test_a_comparison_uses_no_runs_of_other_settings(trained, tmp_path):
    common = {"data": tmp_path, "out": tmp_path, "identity": tmp_path / "people"}
    for _ in range(2):
        compare.train_all(CompareSettings(**common, emotion_epochs=2), 1)
        assert sorted(trained) == ["emotion", "frozen", "joint", "longer", "probe"]
    with pytest.raises(ValueError, match=r"seed-1/emotion holds a run with other settings \(epochs 2, not 3\)"):
        compare.train_all(CompareSettings(**common, emotion_epochs=3), 1)


def test_a_cross_validation_uses_no_runs_of_other_folds(trained, tmp_path):
    crops = np.random.default_rng(1).integers(0, 255, (6, 1, 48, 48), dtype=np.uint8)
    names = np.array([f"{index}.png" for index in range(6)])
    arrays = {"outcomes": np.zeros(6, np.uint8), "votes": np.eye(6, 10), "subjects": names, "files": names}
    prepared = PreparedSet(crops, arrays, {})
    settings = CrossvalidateSettings(data=tmp_path, out=tmp_path)
    held_out = np.arange(6) < 2
    for _ in range(2):
        assert crossvalidate._train_fold(settings, tmp_path / "fold-01", prepared, held_out).name == "emotion"
        assert trained == ["emotion"]
    with pytest.raises(ValueError, match="fold-01/data/train holds other images than this fold of 10"):
        crossvalidate._train_fold(settings, tmp_path / "fold-01", prepared, np.arange(6) < 3)
