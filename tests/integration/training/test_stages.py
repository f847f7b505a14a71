"""Every stage and the export, really run on sets small enough for a test."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from stripes import COMMON, flat, write_sets
from tritonclient.grpc import model_config_pb2
from waiting import wait_until

from service.inference.model_spec import ModelSpec
from training.cli import app
from training.crop_spec import TEMPLATE
from training.datasets.prepared import load_prepared
from training.export.repository import MAX_DIFFERENCE
from training.runs import load_result, load_weights
from training.trained_networks import load_tandem

# Lightning's own calls into torch and its advice about loaders and logging; none is about our code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("prepared"))


def identity(data, out, **options):
    return ["identity", "--data", str(data / "identity"), "--out", str(out), *COMMON, *flat(options)]


def emotion(data, out, **options):
    return ["emotion", "--data", str(data / "ferplus"), "--out", str(out), *COMMON, *flat(options)]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """The three stages one after the other, by the commands that a user types."""
    folder = tmp_path_factory.mktemp("runs")
    assert app(identity(data, folder / "identity", epochs=1)) == 0
    assert app(identity(data, folder / "people", epochs=1, network="small-resnet")) == 0
    assert app(emotion(data, folder / "emotion", epochs=8, start=folder / "people", ema_decay=0.8)) == 0
    joint = ["joint", "--data", str(data / "ferplus"), "--out", str(folder / "joint"), *COMMON]
    joint += ["--identity", str(folder / "identity"), "--emotion", str(folder / "emotion"), "--epochs", "1"]
    joint += ["--learning_rate", "0.001"]
    assert app(joint) == 0
    return folder


def test_the_emotion_network_learns(runs):
    assert load_result(runs / "emotion")["valid"]["majority"]["accuracy"] > 0.6  # chance is 0.125


def test_answers_are_learnt_where_votes_say_nothing(data, runs, tmp_path):
    shutil.copytree(data / "ferplus", tmp_path / "ferplus")
    arrays = tmp_path / "ferplus" / "train" / "arrays.npz"
    with np.load(arrays) as file:
        known = dict(file)
    known["votes"][:] = [3] * 8 + [0, 0]  # as many for each emotion
    np.savez(arrays, **known)
    options = {"epochs": 16, "start": runs / "people", "ema_decay": 0.8}
    assert app(emotion(tmp_path, tmp_path / "alone", **options)) == 0
    taught = {"taught_by": f"[{runs / 'emotion'}]", "taught_share": 1}
    assert app(emotion(tmp_path, tmp_path / "taught", **options, **taught)) == 0
    alone, taught = (load_result(tmp_path / name)["valid"]["majority"]["accuracy"] for name in ("alone", "taught"))
    assert alone < 0.4
    assert taught > alone + 0.2


def test_the_tandem_keeps_what_the_emotion_network_learnt(runs):
    # Started anew it would be at chance, 0.125, after its one epoch.
    assert load_result(runs / "joint")["valid"]["majority"]["accuracy"] > 0.4


def test_both_networks_moved_in_joint_training(runs):
    apart, joined = load_weights(runs / "identity"), load_weights(runs / "joint")
    assert not torch.equal(apart["conv1.0.weight"], joined["identity.conv1.0.weight"])


def test_a_frozen_identity_network_stays_as_it_was(data, runs, tmp_path):
    joint = ["joint", "--data", str(data / "ferplus"), "--out", str(tmp_path), *COMMON, "--epochs", "1"]
    joint += ["--identity", str(runs / "identity"), "--emotion", str(runs / "emotion"), "--identity_rate", "0"]
    assert app(joint) == 0
    apart, joined = load_weights(runs / "identity"), load_weights(tmp_path)
    for name, tensor in apart.items():
        # The running average of equal numbers differs from them by rounding.
        assert torch.allclose(tensor.float(), joined[f"identity.{name}"].float(), atol=1e-6), name


def test_the_export_answers_as_the_trained_network(data, runs, tmp_path, capsys):
    assert app(["export", "--run", str(runs / "joint"), "--repository", str(tmp_path), "--version", "3"]) == 0
    assert "largest difference" in capsys.readouterr().out
    crops = torch.from_numpy(load_prepared(data / "ferplus" / "valid").crops)[:, None]
    card = json.loads((tmp_path / "tandem" / "3" / "model_card.json").read_text())
    exported = torch.jit.load(tmp_path / "tandem" / "3" / "model.pt")
    with torch.inference_mode():
        expected = (load_tandem(runs / "joint")(crops) / card["export"]["temperature"]).softmax(dim=1)
        for size in (1, 5, 96):
            assert (exported(crops[:size]) - expected[:size]).abs().max() <= MAX_DIFFERENCE
    assert "Not for decisions about people" in (tmp_path / "tandem" / "3" / "MODEL_CARD.md").read_text()


def test_the_gateway_reads_the_exported_contract(runs, tmp_path):
    assert app(["export", "--run", str(runs / "joint"), "--repository", str(tmp_path)]) == 0
    config = text_format.Parse((tmp_path / "tandem" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    contract = ModelSpec.from_config(config, "1")
    assert contract.labels[:2] == ("neutral", "happiness")
    assert contract.crop_size == (48, 48)
    assert np.allclose(contract.alignment_template, TEMPLATE, atol=1e-6)


def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"epochs": 6, "ema_decay": 0.8}
    assert app(emotion(data, whole, **options)) == 0

    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums of another number of threads round otherwise
    command = [sys.executable, "-c", "import sys; from training.cli import app; sys.exit(app())"]
    process = subprocess.Popen(
        [*command, *emotion(data, cut, **options)], stderr=subprocess.DEVNULL, env=one_thread
    )
    last = cut / "checkpoints" / "last.ckpt"
    wait_until(
        lambda: last.exists() and torch.load(last, weights_only=True)["epoch"] >= 1, "an epoch is kept", 120
    )
    process.kill()
    process.wait()
    assert not (cut / "result.json").exists()

    assert app(emotion(data, cut, **options)) == 0
    first, second = load_weights(whole), load_weights(cut)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert load_result(whole)["valid"] == load_result(cut)["valid"]


def test_other_settings_in_the_same_folder_are_refused(data, runs, capsys):
    assert app(emotion(data, runs / "emotion", epochs=7)) == 1
    assert "holds a run with other settings" in capsys.readouterr().err


def test_a_start_from_another_network_is_refused(data, runs, tmp_path, capsys):
    assert app(emotion(data, tmp_path, start=runs / "identity")) == 1
    assert "trained a deepid; --network is small-resnet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; a run needs at least 1"),
        ("batch_size", 1, "batch_size is 1; batch normalisation needs at least 2"),
        ("learning_rate", 0, "learning_rate is 0.0; it must be above 0"),
        ("network", "vgg", "network is 'vgg'; there are small-resnet, resnet18-half, resnet18"),
        ("data", "nowhere", "nowhere/train holds no prepared set; make one with `training prepare`"),
    ],
)
def test_wrong_input_is_named_with_its_limit(data, tmp_path, capsys, option, value, message):
    assert app([*emotion(data, tmp_path / "run"), f"--{option}", str(value)]) == 1
    assert message in capsys.readouterr().err
