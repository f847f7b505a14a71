"""The order of the recipe's stages, and which run each of them stands on."""

import pytest

from training import recipe
from training.settings.stages import RecipeSettings


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The settings of every stage that the recipe starts; the stages themselves are tested elsewhere."""
    made = []
    for name in ("train_identity", "train_emotion", "train_joint", "export"):
        monkeypatch.setattr(recipe, name, made.append)
    monkeypatch.setattr(recipe, "PREPARATIONS", dict.fromkeys(recipe.PREPARATIONS, lambda *_, **__: None))
    for folder in ("data/ferplus", "data/identity", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    return made


def run(tmp_path):
    recipe.run_recipe(RecipeSettings(data=tmp_path / "data", out=tmp_path / "runs"))


def test_every_stage_stands_on_runs_that_come_before_it(made, tmp_path):
    run(tmp_path)
    *stages, exported = made
    before = []
    for stage in stages:
        parents = [getattr(stage, name, None) for name in ("start", "identity", "emotion")]
        for parent in (*filter(None, parents), *getattr(stage, "taught_by", ())):
            assert parent in before
        before.append(stage.out)
    assert len(set(before)) == 6
    assert exported.run == before[-1]


def test_what_is_complete_is_not_done_again(made, tmp_path):
    for name in ("identity", "people", "emotion-first"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "result.json").write_text("{}")
    run(tmp_path)
    assert [stage.out.name for stage in made[:-1]] == ["joint-first", "emotion", "joint"]
