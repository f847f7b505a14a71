"""The stages of the recipe, the runs that each is made from, and what is checked before any of them."""

import json
import re

import pytest

from training.cli import app
from training.recipe import run as recipe
from training.recipe.data import Source
from training.recipe.stages import plan_stages
from training.settings.commands import RecipeSettings


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Record the settings of each stage instead of running it; the stages themselves are tested elsewhere."""
    made = []
    monkeypatch.setattr(
        recipe, "TRAINERS", {kind: lambda stage, _: made.append(stage) for kind in recipe.TRAINERS}
    )
    monkeypatch.setattr(recipe, "export", made.append)
    monkeypatch.setattr(recipe, "_estimates", lambda *_: dict.fromkeys(NAMES, 1.0))
    monkeypatch.setattr(recipe, "read_sources", lambda _: dict.fromkeys(("ferplus", "identity"), SOURCE))
    monkeypatch.setattr(recipe, "PREPARATIONS", dict.fromkeys(recipe.PREPARATIONS, lambda *_, **__: None))
    monkeypatch.setattr(recipe, "_summarize", lambda *_: None)
    for folder in ("data/ferplus", "data/identity", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    return made


SOURCE = Source([], 1000, 100, "")
STAGES = ("identity", "pretrain", "emotion-first", "identity-first", "joint-first", "emotion", "joint")
NAMES = ("prepare ferplus", "prepare identity", *STAGES, "export")


def settings(tmp_path, **options):
    return RecipeSettings(data=tmp_path / "data", out=tmp_path / "runs", **options)


def test_every_stage_uses_runs_that_come_before_it(made, tmp_path):
    recipe.run_recipe(settings(tmp_path))
    *stages, exported = made
    before = []
    for stage in stages:
        parents = [getattr(stage, name, None) for name in ("start", "identity", "emotion")]
        for parent in (*filter(None, parents), *getattr(stage, "distill_from", ())):
            assert parent in before
        before.append(stage.out)
    assert tuple(run.name for run in before) == STAGES
    assert exported.run == before[-1]


def test_complete_runs_are_skipped(made, tmp_path):
    for name in STAGES[:3]:
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "result.json").write_text("{}")
    recipe.run_recipe(settings(tmp_path))
    assert [stage.out.name for stage in made[:-1]] == list(STAGES[3:])


def test_runs_that_were_begun_with_other_settings_are_left_alone(made, tmp_path):
    recipe.run_recipe(settings(tmp_path, epochs=3))
    with pytest.raises(ValueError, match=r"begun with other settings \(epochs 3, not 4\)\. Choose another --out"):
        recipe.run_recipe(settings(tmp_path, epochs=4))


def test_a_setting_that_is_newer_than_the_runs_had_its_default_then(made, tmp_path):
    recipe.run_recipe(settings(tmp_path))
    file = tmp_path / "runs" / "recipe.json"
    known = json.loads(file.read_text())
    del known["crop_size"], known["color"]
    file.write_text(json.dumps(known))
    recipe.run_recipe(settings(tmp_path))
    file.write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"begun with other settings \(color False, not True\)"):
        recipe.run_recipe(settings(tmp_path, color=True))


def test_options_reach_every_stage(made, tmp_path):
    recipe.run_recipe(settings(tmp_path, epochs=3, batch_size=8, precision="32-true", devices=2, seed=5))
    for stage in made[:-1]:
        assert (stage.epochs, stage.batch_size, stage.devices, stage.seed) == (3, 8, 2, 5)
        assert stage.precision == "32-true"


def test_an_error_names_its_step(made, monkeypatch, tmp_path):
    def fail(*_):
        raise ValueError("too few samples")

    monkeypatch.setitem(recipe.TRAINERS, type(plan_stages(settings(tmp_path))[2]), fail)
    with pytest.raises(ValueError, match="step emotion-first: too few samples"):
        recipe.run_recipe(settings(tmp_path))


def test_without_options_every_stage_has_its_own_epochs(made, tmp_path):
    recipe.run_recipe(settings(tmp_path))
    assert [stage.epochs for stage in made[:-1]] == [90, 30, 36, 40, 9, 36, 10]  # as --epochs promises


def write_people(folder, count):
    for person in ("ada", "grace"):
        (folder / person).mkdir(parents=True)
        for index in range(count // 2):
            (folder / person / f"{index}.jpg").write_bytes(b"")


def write_ferplus(folder, train, valid):
    votes = "10,0,0,0,0,0,0,0,0,0"
    rows = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for usage, place, count in (("Training", "FER2013Train", train), ("PublicTest", "FER2013Valid", valid)):
        (folder / place).mkdir(parents=True)
        for index in range(count):
            (folder / place / f"{index}.png").write_bytes(b"")
            rows.append(f"{usage},{index}.png,{votes}")
    (folder / "fer2013new.csv").write_text("\n".join(rows))


@pytest.mark.parametrize(
    ("train", "valid", "people", "message"),
    [
        (
            20,
            20,
            20,
            "data set ferplus: .* has 20 images to train on, fewer than a batch of 32 .* smaller --batch_size",
        ),
        (40, 4, 40, "data set ferplus: .* has 4 images with Usage PublicTest"),
        (40, 20, 20, "data set identity: .* has 20 images, fewer than a batch of 32"),
    ],
)
def test_too_little_data_is_found_before_anything_is_prepared(tmp_path, capsys, train, valid, people, message):
    write_ferplus(tmp_path / "data" / "ferplus", train, valid)
    write_people(tmp_path / "data" / "identity", people)
    arguments = ["all", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "--quick"]
    assert app(arguments) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()
