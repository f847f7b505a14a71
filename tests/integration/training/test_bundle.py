"""Train from a bundle without the libraries that a lent machine lacks, and make runs of what comes back."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from cards import card_of
from stripes import TRAINING_MARKS, flat, stripes, votes, write_set

from training.bundle.command import main
from training.bundle.parts import PART
from training.cli import app
from training.datasets.prepared import load_prepared
from training.networks.inference import predict_probabilities
from training.protocols.ferplus import score_prepared
from training.runs import load_result, load_settings
from training.trained import load_expression, load_identity

MISSING = ("cv2", "onnx", "onnxruntime", "jsonargparse", "simplejpeg", "typer")
"""Libraries that the machine need not have. Lightning asks for metadata of others, so those cannot be hidden."""

PROGRAM = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {MISSING} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if each is PathFinder else each for each in sys.meta_path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Run a program as if those were not installed."""

SMALL = {"identity_network": "deepid", "teacher_network": "small-resnet", "network": "small-resnet"}
SMALL |= {f"{phase}_phase.batch_size": 8 for phase in ("identity", "teacher", "student", "joint")}

pytestmark = TRAINING_MARKS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    labels = np.arange(24) % 8
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (24, 1, 1))
    for split in ("train", "valid"):
        images = {"unaligned": stripes(labels), "matrices": matrices}
        write_set(folder / "ferplus" / split, labels, votes=votes(labels), **images)
    wide = np.pad(stripes(labels)[:, 0], ((0, 0), (8, 8), (8, 8)), "edge")
    embeddings = np.random.default_rng(2).normal(size=(8, 12)).astype(np.float16)[labels]
    write_set(folder / "identity", labels, labels=labels, wide=wide, teacher=embeddings)
    return folder


def bundle(data, out, **options):
    sets = {"ferplus": data / "ferplus", "faces": data / "identity", "out": out}
    return app(["bundle", *flat({**sets, **SMALL, "loss": 0, "valid_loss": 0, **options})])


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Pack, train two steps of each phase in a process without the libraries, and make runs."""
    folder = tmp_path_factory.mktemp("bundle")
    assert bundle(data, folder / "training.pyz") == 0
    options = [str(folder / "training.pyz"), "--out", str(folder / "parts"), "--steps", "2"]
    command = [sys.executable, "-P", "-c", PROGRAM, *options]
    one_thread = {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert app(["unbundle", "--parts", str(folder / "parts"), "--out", str(folder / "runs")]) == 0
    return folder / "runs"


def test_the_runs_answer_as_they_did_on_the_machine(data, runs):
    valid = load_prepared(data / "ferplus" / "valid")
    for name in ("teacher-1", "teacher-2", "emotion", "joint"):
        probabilities = predict_probabilities(load_expression(runs / name), valid.crops)
        score, known = score_prepared(probabilities, valid).majority, load_result(runs / name)["valid"]["majority"]
        assert score.accuracy == known["accuracy"]
        assert score.calibration_error == pytest.approx(known["calibration_error"], abs=1e-3)
    assert load_identity(runs / "identity").features == 160


def test_the_runs_know_what_they_were_made_from(runs):
    joint = load_settings(runs / "joint", "joint")
    assert joint["identity"] == str(runs / "identity")
    assert joint["distill_from"] == [str(runs / "teacher-1"), str(runs / "teacher-2")]
    assert load_settings(runs / "teacher-1")["start"] == str(runs / "pretrained-small-resnet")
    assert load_result(runs / "joint")["steps"] == 2


def test_the_card_of_the_joint_run_names_the_command_that_made_it(runs, tmp_path):
    card = card_of(runs / "joint", tmp_path)
    assert "training run-bundle --bundle" in card
    assert "--identity_phase.batch_size 8" in card


def test_parts_are_small_in_half_precision_and_the_joint_network_comes_first(runs):
    parts = runs.parent / "parts"
    with np.load(parts / PART.format(0)) as first:
        assert next(iter(first.files)).startswith("joint|")
        assert first["joint|classifier.1.weight"].dtype == np.float16
    assert max(part.stat().st_size for part in parts.glob("*.npz")) <= 15 * 2**20


def test_a_lost_part_leaves_a_run_without_weights(runs, tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "runs.json").write_text((runs.parent / "parts" / "runs.json").read_text())
    assert app(["unbundle", "--parts", str(tmp_path / "parts"), "--out", str(tmp_path / "runs")]) == 0
    assert "weights-0.npz is missing" in capsys.readouterr().out
    assert load_settings(tmp_path / "runs" / "joint")["stage"] == "joint"
    assert not (tmp_path / "runs" / "joint" / "weights.pt").exists()


def test_a_bundle_that_is_too_large_is_named(data, tmp_path, capsys):
    assert bundle(data, tmp_path / "training.pyz", max_mib=0.1) == 1
    assert "the limit is 0.1 (max_mib)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_foreign_file_is_named(tmp_path, capsys):
    foreign, archive = tmp_path / "text", tmp_path / "archive"
    foreign.write_text("no bundle")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("bundle.json", json.dumps({"format": "another"}))
    for file in (foreign, archive):
        assert app(["run-bundle", "--bundle", str(file), "--out", str(tmp_path / "out")]) == 1
        assert f"{file} is no bundle" in capsys.readouterr().err
    assert main(["--bundle", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1


def test_a_set_without_wide_crops_is_named(data, tmp_path, capsys):
    sets = {"ferplus": data / "ferplus", "faces": data / "ferplus" / "train", "out": tmp_path / "x"}
    assert app(["bundle", *flat(sets)]) == 1
    assert "has no array 'wide'; prepare it with --wide true" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("limit", 1), ("time_factor", -1)])
def test_options_out_of_range_are_named(tmp_path, capsys, option, value):
    command = ["run-bundle", "--bundle", str(tmp_path), "--out", str(tmp_path), f"--{option}", str(value)]
    assert app(command) == 1
    assert f"{option} is {value}" in capsys.readouterr().err
