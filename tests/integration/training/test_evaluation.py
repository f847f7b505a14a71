"""Measure trained networks on small data sets: LFW, CK+ in folds, the comparison and the report."""

import json
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from stripes import COMMON, STEADY, TRAINING_MARKS, flat, stripes, votes, write_set, write_sets

from training.cli import app
from training.datasets.prepared import Crops, load_prepared, write_prepared
from training.evaluation import compare_features, probe
from training.evaluation.compare import EMOTION, FROZEN, FUSION, LONGER, METHODS
from training.evaluation.crossvalidate import compare_by_person
from training.evaluation.probe import IDENTITY, TANDEM
from training.report.curves import read_curves
from training.runs import lineage, load_result, load_settings, load_weights
from training.trained import load_expression, load_identity, predict_expressions

pytestmark = TRAINING_MARKS

SMALL = ["--batch_size", "16", "--precision", "32-true", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_sets(tmp_path_factory.mktemp("prepared"))
    labels = np.arange(96) % 8
    embeddings = np.random.default_rng(1).normal(size=(8, 12)).astype(np.float16)[labels]
    write_set(folder / "embedded", labels, labels=labels, teacher=embeddings)
    for name, folds in (("dev-train", 1), ("dev-test", 1), ("view2", 10)):
        write_pairs(folder / "lfw" / name, folds)
    people = 20
    emotions = np.repeat(np.arange(people) % 7 + 1, 6)
    subjects = np.repeat([f"S{index:03d}" for index in range(people)], 6)
    files = np.array([f"{index}.png" for index in range(len(emotions))])
    write_set(folder / "ckplus", emotions, votes=votes(emotions), subjects=subjects, files=files)
    return folder


def write_pairs(folder, folds):
    """Write two crops of each kind of stripes; matched pairs are of the same kind."""
    crops = stripes(np.tile(np.arange(8), 2))
    matched = [(index, index + 8) for index in range(8)]
    mismatched = [(index, (index + 3) % 8 + 8) for index in range(8)]
    pairs = np.array((matched + mismatched) * folds)
    same = np.array(([True] * 8 + [False] * 8) * folds)
    arrays = {"pairs": pairs, "same": same, "folds": np.repeat(np.arange(folds), 16)}
    write_prepared(folder, folder, Crops(crops, np.zeros(16, np.uint8)), None, arrays, {})


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    lfw = ["--lfw", str(data / "lfw")]
    identity = ["identity", "--data", str(data / "identity"), *COMMON, *lfw, "--ema_decay", "0.8"]
    assert app([*identity, "--out", str(folder / "identity"), "--epochs", "3"]) == 0
    expressions = ["--data", str(data / "ferplus"), *COMMON]
    assert app(["emotion", *expressions, "--out", str(folder / "emotion"), *flat(STEADY)]) == 0
    joint = ["joint", *expressions, "--identity", str(folder / "identity"), "--emotion", str(folder / "emotion")]
    options = {"epochs": 1, "learning_rate": 0.001, "ema_decay": 0.8}
    assert app([*joint, "--out", str(folder / "joint"), *flat(options)]) == 0
    return folder


def test_both_views_of_lfw(data, runs, tmp_path, capsys):
    command = ["verify", "--run", str(runs / "identity"), "--data", str(data / "lfw")]
    assert app([*command, "--out", str(tmp_path / "lfw.json")]) == 0
    result = json.loads((tmp_path / "lfw.json").read_text())
    assert result["view1"]["accuracy"] == pytest.approx(load_result(runs / "identity")["lfw_view1_accuracy"])
    assert result["view2"]["mean"] > 0.6
    assert result["view2"]["standard_error"] == 0  # each fold has the same pairs here
    assert len(result["view2"]["accuracies"]) == 10
    assert "View 2 (10 folds)" in capsys.readouterr().out


def test_other_runs_and_empty_folders_are_rejected(data, runs, tmp_path, capsys):
    assert app(["verify", "--run", str(runs / "emotion"), "--data", str(data / "lfw")]) == 1
    assert "stage 'emotion'; expected identity" in capsys.readouterr().err
    assert app(["verify", "--run", str(runs / "identity"), "--data", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    with pytest.raises(ValueError, match="stage 'identity'; expected emotion or joint or probe"):
        load_expression(runs / "identity")


def test_a_loaded_network_predicts_like_its_run(data, runs):
    valid = load_prepared(data / "ferplus" / "valid")
    for stage in ("emotion", "joint"):
        predicted = predict_expressions(runs / stage, valid.crops).argmax(axis=1)
        assert (predicted == valid.arrays["votes"].argmax(axis=1)).mean() == pytest.approx(
            load_result(runs / stage)["valid"]["majority"]["accuracy"]
        )
    assert not load_identity(runs / "identity").training


def test_the_identity_network_learns_from_a_teacher(data, tmp_path, capsys):
    options = {"epochs": 4, "ema_decay": 0.5, "teacher_weight": 10, "classification_weight": 0}
    command = ["identity", *COMMON, *flat(options)]
    assert app([*command, "--data", str(data / "embedded"), "--out", str(tmp_path / "embedded")]) == 0
    loss = read_curves(tmp_path / "embedded")["loss"]
    assert loss[0] < 10.5  # 10 x (1 - cosine), and the cosine of an untrained network is about 0
    assert loss[3] < 0.7 * loss[0]
    assert not any("projection" in name for name in load_weights(tmp_path / "embedded"))

    assert app([*command, "--data", str(data / "identity"), "--out", str(tmp_path / "other")]) == 1
    assert "prepare it with --teacher" in capsys.readouterr().err


def test_a_run_says_which_stage_it_is_of(runs):
    assert {name: load_settings(runs / name)["stage"] for name in ("identity", "emotion", "joint")} == {
        "identity": "identity",
        "emotion": "emotion",
        "joint": "joint",
    }


@pytest.fixture(scope="module")
def folds(data, runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("ckplus") / "out"
    command = ["crossvalidate", "--data", str(data / "ckplus"), "--out", str(out), *SMALL, "--folds", "3"]
    command += ["--identity", str(runs / "identity"), "--joint_epochs", "1", *flat(STEADY)]
    assert app(command) == 0
    return command, out


def test_every_fold_is_tested_on_people_it_was_not_trained_on(folds):
    command, out = folds
    result = json.loads((out / "crossvalidation.json").read_text())
    assert (result["images"], result["subjects"]) == (120, 20)
    assert np.array(result["confusion"]).sum() == 120
    assert result["mean"] == pytest.approx(np.mean(result["accuracies"]))
    assert result["deviation"] == pytest.approx(np.std(result["accuracies"], ddof=1))
    assert result["mean"] > 0.3  # chance is 1 in 7
    tested = []
    for fold in ("fold-01", "fold-02", "fold-03"):
        train, valid = (
            load_prepared(out / fold / "data" / name).arrays["subjects"] for name in ("train", "valid")
        )
        assert not set(train) & set(valid)
        assert len(train) + len(valid) == 120
        assert load_result(out / fold / "joint")["images"] == len(train)
        tested += sorted(set(valid))
    assert len(tested) == len(set(tested)) == 20
    assert app(command) == 0  # complete folds are skipped
    assert json.loads((out / "crossvalidation.json").read_text()) == result


def test_a_set_without_subjects_is_rejected(data, tmp_path, capsys):
    assert app(["crossvalidate", "--data", str(data / "ferplus" / "train"), "--out", str(tmp_path)]) == 1
    assert "has no subjects; prepare it with --kind ckplus" in capsys.readouterr().err


def test_frozen_features_are_compared_in_folds_by_person(data, runs, tmp_path, capsys):
    command = ["crossvalidate", "--data", str(data / "ckplus"), "--out", str(tmp_path), "--folds", "4", "--probe"]
    assert app([*command, "--identity", str(runs / "identity"), "--start", str(runs / "emotion")]) == 0
    result = json.loads((tmp_path / "crossvalidation.json").read_text())
    assert list(result["features"]) == [IDENTITY, probe.EMOTION, TANDEM]
    for figures in result["features"].values():
        assert figures["accuracy"] > 0.5  # chance is 1 in 7
        assert figures["interval"]["low"] <= figures["accuracy"] <= figures["interval"]["high"]
    assert result["features"][TANDEM]["accuracy"] == pytest.approx(result["mean"])  # all folds are of one size
    assert "CK+: frozen features" in capsys.readouterr().out
    assert app([*command, "--start", str(runs / "emotion")]) == 0
    assert list(json.loads((tmp_path / "crossvalidation.json").read_text())["features"]) == [probe.EMOTION]


def test_intervals_of_frozen_features_are_over_people():
    subjects = np.repeat(["a", "b", "c", "d"], 50)
    right = subjects != "a"  # who is drawn decides, not which of a person's images
    figures = compare_by_person({probe.EMOTION: right, TANDEM: np.ones(200, bool)}, subjects)
    assert figures[probe.EMOTION]["accuracy"] == 0.75
    assert figures[probe.EMOTION]["interval"] == {"low": 0.25, "high": 1.0}
    assert figures[TANDEM]["gain"] == 0.25
    assert figures[TANDEM]["gain_interval"] == {"low": 0.0, "high": 0.75}


def test_frozen_features_are_compared_on_both_halves_and_in_photos(data, runs, tmp_path, monkeypatch):
    # Stripes are no faces, which are pasted in unit/training/evaluation.
    def paste(source, split, limit, workers, shape):
        labels = np.arange(40) % 8
        crops = np.repeat(stripes(labels)[:, None], 2, axis=1)
        found = np.tile([True, False], (40, 1))
        return labels, crops, found

    monkeypatch.setattr(compare_features, "CONDITIONS", ("as it is", "dark"))
    monkeypatch.setattr(compare_features, "paste_faces", paste)
    command = ["compare", "--probe", "--data", str(data / "ferplus"), "--out", str(tmp_path), "--seeds", "2"]
    command += ["--identity", str(runs / "identity"), "--start", str(runs / "emotion")]
    assert app([*command, "--photos", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "features.json").read_text())
    choosing, reporting, plain, dark = result["sets"].values()
    assert list(result["sets"])[2:] == ["as it is", "dark"]
    assert choosing["images"] + reporting["images"] == 96
    for figures in (choosing, reporting, plain):
        for each in figures["features"].values():
            assert each["accuracy"] > 0.5  # chance is 0.125
            assert each["interval"]["low"] <= each["accuracy"] <= each["interval"]["high"]
        apart = figures["features"][TANDEM]["accuracy"] - figures["features"][probe.EMOTION]["accuracy"]
        assert figures["gain"] == pytest.approx(apart)
    assert dark["faces_found"] == 0
    assert {each["accuracy"] for each in dark["features"].values()} == {0}
    assert "| as it is | 40 | 100.00 |" in (tmp_path / "features.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--identity", "a", "--probe"], "probe is set; it needs --identity and --start"),
        (["--identity", "a", "--photos", "b"], "photos is b; it needs --probe"),
    ],
)
def test_options_of_frozen_features_are_checked(tmp_path, capsys, options, message):
    assert app(["compare", "--data", str(tmp_path), "--out", str(tmp_path), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def comparison(data, runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    command = ["compare", "--data", str(data / "ferplus"), "--out", str(out), *SMALL, "--ema_decay", "0.8"]
    command += ["--people", str(data / "identity"), "--lfw", str(data / "lfw"), "--seeds", "2"]
    # From what has been learned: at the rate of this command a few small batches alone teach little.
    command += ["--start", str(runs / "emotion"), "--emotion_epochs", "2"]
    command += ["--identity_epochs", "1", "--probe_epochs", "1", "--joint_epochs", "1"]
    assert app(command) == 0
    return out


def test_the_comparison_has_every_method_and_seed(comparison):
    result = json.loads((comparison / "comparison.json").read_text())
    assert tuple(result["methods"]) == METHODS
    for method in METHODS:
        figures = result["methods"][method]["majority"]
        assert figures["rows"] == 96
        assert len(figures["seeds"]) == 2
        assert figures["interval"]["low"] <= figures["mean"] <= figures["interval"]["high"]
    emotion, fusion = (result["methods"][method]["majority"] for method in (EMOTION, FUSION))
    assert emotion["gain"] == 0
    assert emotion["mean"] > 0.4  # chance is 0.125
    assert all(fused >= alone for fused, alone in zip(fusion["seeds"], emotion["seeds"], strict=True))
    alone = load_result(comparison / "seed-2" / "emotion")["valid"]["majority"]["accuracy"]
    assert emotion["seeds"][1] == pytest.approx(alone)
    assert (
        result["methods"][LONGER]["majority"]["mean"] > emotion["mean"] - 0.1
    )  # it continues from the trained network
    page = (comparison / "comparison.md").read_text()
    assert all(f"| {method} |" in page for method in METHODS)


def test_frozen_parts_do_not_change(comparison):
    joined = load_weights(comparison / "seed-1" / "frozen")
    parts = {f"identity.{name}": each for name, each in load_weights(comparison / "seed-1" / "identity").items()}
    emotion = load_weights(comparison / "seed-1" / "emotion")
    parts |= {name.replace("backbone", "emotion"): each for name, each in emotion.items() if "backbone" in name}
    assert len(parts) + 2 == len(joined)
    for name, tensor in parts.items():
        assert torch.allclose(tensor.float(), joined[name].float(), atol=1e-6), name
    apart = load_result(comparison / "seed-1" / "frozen")["valid"]["majority"]["accuracy"]
    assert apart == pytest.approx(
        json.loads((comparison / "comparison.json").read_text())["methods"][FROZEN]["majority"]["seeds"][0]
    )


@pytest.mark.parametrize("options", [[], ["--identity", "a", "--people", "b"]])
def test_the_comparison_needs_either_identity_or_people(tmp_path, capsys, options):
    assert app(["compare", "--data", str(tmp_path), "--out", str(tmp_path), *options]) == 1
    assert "give either --identity, a run for all seeds, or --people" in capsys.readouterr().err


def test_the_report_is_self_contained(data, runs, comparison, folds, tmp_path):
    robustness = {
        "split": "valid",
        "images": 3,
        "conditions": {
            "dark": {"faces_found": 0, "accuracy": 0, "interval": {"low": 0, "high": 0}, "accuracy_of_found": None}
        },
    }
    (tmp_path / "robustness.json").write_text(json.dumps(robustness))
    out = tmp_path / "report"
    command = ["report", "--run", str(runs / "joint"), "--out", str(out)]
    command += ["--comparison", str(comparison / "comparison.json")]
    command += ["--crossvalidation", str(folds[1] / "crossvalidation.json")]
    command += ["--robustness", str(tmp_path / "robustness.json")]
    assert app(command) == 0
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 6
    for source in sources:
        assert source.startswith("data:image/png;base64,")
        assert b64decode(source.partition(",")[2]).startswith(b"\x89PNG")
    for heading in ("Expressions: FER+ Valid", "Identity: LFW", "CK+", "Faces in photos", "Published results"):
        assert f"## {heading}" in text
    for name in re.findall(r"\]\((\S+\.png)\)", text):
        assert Image.open(out / name).size[0] > 300
    accuracy = load_result(runs / "joint")["valid"]["majority"]["accuracy"]
    assert f"| majority | 96 | {100 * accuracy:.2f} |" in text


def test_a_report_needs_a_joint_run(runs, tmp_path, capsys):
    assert list(lineage(runs / "joint")) == ["identity", "emotion", "joint"]
    assert app(["report", "--run", str(runs / "emotion"), "--out", str(tmp_path)]) == 1
    assert "stage 'emotion'; expected joint" in capsys.readouterr().err
