"""The order of the stages in the recipe, and the runs that each is made from."""

import pytest

from training import recipe
from training.settings.commands import RecipeSettings


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Record the settings of each stage instead of running it; the stages themselves are tested elsewhere."""
    made = []
    for name in ("train_identity", "train_emotion", "train_joint", "export"):
        monkeypatch.setattr(recipe, name, made.append)
    monkeypatch.setattr(recipe, "PREPARATIONS", dict.fromkeys(recipe.PREPARATIONS, lambda *_, **__: None))
    for folder in ("data/ferplus", "data/identity", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    return made


def run(tmp_path):
    recipe.run_recipe(RecipeSettings(data=tmp_path / "data", out=tmp_path / "runs"))


def test_every_stage_uses_runs_that_come_before_it(made, tmp_path):
    run(tmp_path)
    *stages, exported = made
    before = []
    for stage in stages:
        parents = [getattr(stage, name, None) for name in ("start", "identity", "emotion")]
        for parent in (*filter(None, parents), *getattr(stage, "distill_from", ())):
            assert parent in before
        before.append(stage.out)
    assert len(set(before)) == 6
    assert exported.run == before[-1]


def test_complete_runs_are_skipped(made, tmp_path):
    for name in ("identity", "pretrain", "emotion-first"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "result.json").write_text("{}")
    run(tmp_path)
    assert [stage.out.name for stage in made[:-1]] == ["joint-first", "emotion", "joint"]
