"""Run every stage and the export on small data sets."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch
import yaml
from cards import card_of
from face_network import write_face_network
from google.protobuf import text_format
from stripes import COMMON, STEADY, TRAINING_MARKS, flat, write_sets
from tritonclient.grpc import model_config_pb2
from waiting import wait_until

from service.inference.model_spec import ModelSpec
from training.cli import app
from training.crop_spec import TEMPLATE
from training.datasets.prepared import load_prepared
from training.evaluation.contract import read_crop
from training.export.onnx import OnnxNetwork
from training.export.torchscript import MAX_DIFFERENCE
from training.networks.checkpoint import load_checkpoint
from training.networks.tandem import build_backbone
from training.protocols.readings import choosing_half
from training.runs import lineage, load_provenance, load_result, load_settings, load_weights, start_run
from training.settings.stages import EmotionSettings
from training.trained import load_expression, load_tandem

pytestmark = TRAINING_MARKS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("prepared"))


def identity(data, out, **options):
    return ["identity", "--data", str(data / "identity"), "--out", str(out), *COMMON, *flat(options)]


def emotion(data, out, **options):
    return ["emotion", "--data", str(data / "ferplus"), "--out", str(out), *COMMON, *flat(options)]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Run the three stages one after the other, by their commands."""
    folder = tmp_path_factory.mktemp("runs")
    assert app(identity(data, folder / "identity", epochs=1)) == 0
    assert app(emotion(data, folder / "emotion", **STEADY)) == 0
    joint = ["joint", "--data", str(data / "ferplus"), "--out", str(folder / "joint"), *COMMON]
    joint += ["--identity", str(folder / "identity"), "--emotion", str(folder / "emotion"), "--epochs", "1"]
    joint += ["--learning_rate", "0.001"]
    assert app(joint) == 0
    return folder


@pytest.fixture(scope="module")
def repository(runs, tmp_path_factory):
    """Export the tandem as version 3."""
    folder = tmp_path_factory.mktemp("models")
    export = ["export", "--run", str(runs / "joint"), "--repository", str(folder), "--version", "3"]
    assert app([*export, "--license", "apache-2.0", "--safetensors"]) == 0
    return folder


def test_the_emotion_network_learns(runs):
    assert load_result(runs / "emotion")["valid"]["majority"]["accuracy"] > 0.6  # chance is 0.125


def test_the_emotion_network_starts_from_an_identity_run(data, tmp_path):
    pretrain, started = tmp_path / "pretrain", tmp_path / "started"
    assert app(identity(data, pretrain, epochs=1, network="small-resnet", ema_decay=0.5)) == 0
    assert app(emotion(data, started, epochs=1, start=pretrain, learning_rate=1e-9)) == 0
    before, after = load_weights(pretrain), load_weights(started)
    assert torch.allclose(before["stem.0.weight"], after["backbone.stem.0.weight"], atol=1e-6)


def test_distillation_teaches_what_the_votes_do_not(data, runs, tmp_path):
    shutil.copytree(data / "ferplus", tmp_path / "ferplus")
    arrays = tmp_path / "ferplus" / "train" / "arrays.npz"
    with np.load(arrays) as file:
        known = dict(file)
    known["votes"][:] = [3] * 8 + [0, 0]  # the same number for each emotion
    np.savez(arrays, **known)
    options = {**STEADY, "keep": "last"}
    assert app(emotion(tmp_path, tmp_path / "alone", **options)) == 0
    distill = {"distill_from": f"[{runs / 'emotion'}]", "distill_weight": 1}
    assert app(emotion(tmp_path, tmp_path / "distilled", **options, **distill)) == 0
    alone, distilled = (
        load_result(tmp_path / name)["valid"]["majority"]["accuracy"] for name in ("alone", "distilled")
    )
    assert alone < 0.4
    assert distilled > alone + 0.2


def test_the_tandem_keeps_what_the_emotion_network_has_learned(runs):
    # Without the weights of the emotion network it would be at chance, 0.125, after one epoch.
    assert load_result(runs / "joint")["valid"]["majority"]["accuracy"] > 0.4


def test_joint_training_changes_both_networks(runs):
    apart, joined = load_weights(runs / "identity"), load_weights(runs / "joint")
    assert not torch.equal(apart["conv1.0.weight"], joined["identity.conv1.0.weight"])


def test_a_frozen_identity_network_does_not_change(data, runs, tmp_path):
    joint = ["joint", "--data", str(data / "ferplus"), "--out", str(tmp_path), *COMMON, "--epochs", "1"]
    joint += ["--identity", str(runs / "identity"), "--emotion", str(runs / "emotion"), "--identity_rate", "0"]
    assert app(joint) == 0
    apart, joined = load_weights(runs / "identity"), load_weights(tmp_path)
    for name, tensor in apart.items():
        # The moving average of equal numbers differs from them by rounding.
        assert torch.allclose(tensor.float(), joined[f"identity.{name}"].float(), atol=1e-6), name


def test_the_export_predicts_like_the_trained_network(data, runs, repository):
    crops = torch.from_numpy(load_prepared(data / "ferplus" / "valid").crops)
    version = repository / "tandem" / "3"
    card = json.loads((version / "model_card.json").read_text())
    exported = (torch.jit.load(version / "model.pt"), OnnxNetwork(version / "model.onnx"))
    with torch.inference_mode():
        expected = (load_tandem(runs / "joint")(crops) / card["export"]["temperature"]).softmax(dim=1)
        for size in (1, 5, 96):
            for network in exported:
                assert (network(crops[:size]) - expected[:size]).abs().max() <= MAX_DIFFERENCE
    for file, key in (("model.pt", "sha256"), ("model.onnx", "onnx_sha256")):
        assert card["export"][key] == sha256((version / file).read_bytes()).hexdigest()
    assert "Not for decisions about people" in (version / "MODEL_CARD.md").read_text()


def test_the_card_has_a_head_for_hugging_face_and_says_what_can_be_repeated(runs, repository):
    version = repository / "tandem" / "3"
    _, head, text = (version / "MODEL_CARD.md").read_text().split("---\n", 2)
    facts, card = yaml.safe_load(head), json.loads((version / "model_card.json").read_text())
    assert (facts["license"], facts["pipeline_tag"]) == ("apache-2.0", "image-classification")
    (model,) = facts["model-index"]
    scores = {each["dataset"]["name"]: each["metrics"][0]["value"] for each in model["results"]}
    assert model["name"] == "tandem"
    assert scores == {
        f"FER+ Valid, reporting half, {rule} rule": round(card["valid"]["reporting"][rule]["accuracy"], 4)
        for rule in ("majority", "argmax")
    }
    known = load_provenance(runs / "joint")
    assert (known["device"], known["precision"]) == ("cpu", "32-true")
    shown = (known["torch"], known["python"], "cpu", known["processor"][:40], str(known["threads"]), "32-true")
    assert f"| joint | 1 | {known['commit'][:40]} | {' | '.join(shown)} |" in text
    assert "An identity network (`deepid`) and an emotion network (`small-resnet`) are first trained" in text
    assert "the same weights, bit by bit" in text
    assert "GPU" not in text.partition("## Reproducibility")[2].partition("## Data")[0]


def test_the_weights_in_safetensors_start_another_run(runs, repository):
    backbone = build_backbone("small-resnet")
    load_checkpoint(backbone, repository / "tandem" / "3" / "model.safetensors")
    trained = load_weights(runs / "joint")
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, trained[f"emotion.{name}"]), name


def test_an_exported_model_is_restored_to_runs_that_predict_alike_and_can_be_trained_on(
    data, runs, repository, tmp_path
):
    version, ferplus, restored = repository / "tandem" / "3", str(data / "ferplus"), tmp_path / "restored"
    restore = ["restore", "--version", str(version), "--data", ferplus, "--out", str(restored)]
    assert app(restore) == 0
    crops = torch.from_numpy(load_prepared(data / "ferplus" / "valid").crops)
    before, after = load_tandem(runs / "joint"), load_tandem(restored / "joint")
    with torch.inference_mode():
        assert torch.allclose(before(crops), after(crops), atol=1e-4)
        after.train()
        after.emotion.eval()  # the identity network drops features out in training
        assert torch.allclose(before.emotion(crops), after.emotion(crops), atol=1e-4)
    joint = ["joint", "--data", ferplus, "--out", str(tmp_path / "on"), *COMMON, "--epochs", "1"]
    joint += ["--identity", str(restored / "identity"), "--emotion", str(restored / "emotion")]
    assert app([*joint, "--learning_rate", "1e-9", "--distill_from", f"[{restored / 'joint'}]"]) == 0
    # Training takes new statistics even at this rate, so its accuracy is another, but the weights stay.
    start, end = load_weights(restored / "joint"), load_weights(tmp_path / "on")
    for name in ("identity.conv1.0.weight", "emotion.stem.0.weight"):
        assert torch.allclose(start[name], end[name], atol=1e-5), name
    assert " ".join(["training", *restore[:5]]) in card_of(tmp_path / "on", tmp_path)


def test_an_exported_model_is_trained_on_and_learned_from_as_it_is(data, repository, tmp_path):
    version = repository / "tandem" / "3"
    options = {"epochs": 1, "learning_rate": 1e-9, "ema_decay": 0, "distill_from": f"[{version}]"}
    assert app(emotion(data, tmp_path / "emotion", start=version, **options)) == 0
    joint = ["joint", "--data", str(data / "ferplus"), "--out", str(tmp_path / "joint"), *COMMON, *flat(options)]
    assert app([*joint, "--identity", str(version), "--emotion", str(tmp_path / "emotion")]) == 0
    assert list(lineage(tmp_path / "joint")) == ["tandem/3", "emotion", "joint"]
    before, after = load_weights(version), load_weights(tmp_path / "joint")
    for name in ("identity.conv1.0.weight", "emotion.stem.0.weight"):
        assert torch.allclose(before[name], after[name], atol=1e-5), name
    own = [weights["classifier.1.weight"][:, 160:] for weights in (before, after)]  # those of the emotion features
    assert torch.allclose(*own, atol=1e-5)


def test_a_restored_file_that_does_not_fit_its_card_is_named(data, repository, tmp_path, capsys):
    version = shutil.copytree(repository / "tandem" / "3", tmp_path / "3")
    card = json.loads((version / "model_card.json").read_text())
    card["export"]["networks"]["identity"] = "deepid-wide"
    (version / "model_card.json").write_text(json.dumps(card))
    restore = ["restore", "--version", str(version), "--data", str(data / "ferplus")]
    assert app([*restore, "--out", str(tmp_path / "out")]) == 1
    assert "model.pt does not fit the networks in its model card" in capsys.readouterr().err
    (version / "model.pt").unlink()
    assert app([*restore, "--out", str(tmp_path / "out")]) == 1
    assert "has no model.pt" in capsys.readouterr().err


def test_networks_of_several_runs_are_joined_and_start_as_the_mean_of_their_logits(data, runs, tmp_path):
    face = str(write_face_network(tmp_path / "face.onnx"))
    assert (
        app(emotion(data, tmp_path / "face", epochs=1, network=face, optimizer="adamw", learning_rate=1e-3)) == 0
    )
    parts = [runs / "emotion", tmp_path / "face"]
    options = {"epochs": 1, "learning_rate": 1e-9, "ema_decay": 0, "parts": f"[{parts[0]},{parts[1]}]"}
    assert app(emotion(data, tmp_path / "joined", network=f"small-resnet+{face}", **options)) == 0
    crops = torch.from_numpy(load_prepared(data / "ferplus" / "valid").crops)
    first, second, joined = (load_expression(run) for run in (*parts, tmp_path / "joined"))
    # An epoch of training has moved the statistics of the batches.
    joined.backbone.networks[0].load_state_dict(first.backbone.state_dict())
    joined.backbone.networks[1].load_state_dict(second.backbone.state_dict())
    with torch.inference_mode():
        assert torch.allclose(joined(crops), (first(crops) + second(crops)) / 2, atol=1e-4)


def test_the_gateway_reads_the_exported_configuration(repository):
    config = text_format.Parse(
        (repository / "tandem" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    spec = ModelSpec.from_config(config, "1")
    assert spec.labels[:2] == ("neutral", "happiness")
    assert spec.crop_size == (48, 48)
    assert np.allclose(spec.alignment_template, TEMPLATE, atol=1e-6)


def test_crops_in_color_of_another_size_go_from_the_prepared_set_into_the_contract(data, tmp_path, capsys):
    colored, short = write_sets(tmp_path / "colored", 32, (3, 40, 40)), {"epochs": 1, "ema_decay": 0}
    runs = {name: tmp_path / name for name in ("identity", "emotion", "joint")}
    assert app(identity(colored, runs["identity"], **short)) == 0
    assert app(emotion(colored, runs["emotion"], **short)) == 0
    joint = ["joint", "--data", str(colored / "ferplus"), *COMMON, *flat(short), "--out", str(runs["joint"])]
    joint += ["--identity", str(runs["identity"]), "--emotion", str(runs["emotion"])]
    assert app(joint) == 0
    assert app(["export", "--run", str(runs["joint"]), "--repository", str(tmp_path / "models")]) == 0
    version = tmp_path / "models" / "tandem" / "1"
    config = text_format.Parse((version / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert ModelSpec.from_config(config, "1").crop_shape == read_crop(version / "model.pt") == (3, 40, 40)
    assert "from one RGB 40x40 crop" in (version / "MODEL_CARD.md").read_text()
    crops = torch.from_numpy(load_prepared(colored / "ferplus" / "valid").crops[:4])
    with torch.inference_mode():
        trained, read = (load_tandem(run)(crops) for run in (runs["joint"], version))
        assert torch.allclose(trained, read, atol=1e-4)
    capsys.readouterr()
    gray = ["joint", "--data", str(data / "ferplus"), *joint[3:-5], str(tmp_path / "gray"), *joint[-4:]]
    assert app(gray) == 1
    assert "takes RGB 40x40 crops, not gray 48x48: prepare data with --crop_size 40 --color true" in (
        capsys.readouterr().err
    )


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    data, whole, cut = write_sets(tmp_path / "few", 32), tmp_path / "whole", tmp_path / "cut"
    options = {"epochs": 4, "ema_decay": 0.8}
    assert app(emotion(data, whole, **options)) == 0

    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # another number of threads rounds differently
    command = [sys.executable, "-c", "import sys; from training.cli import app; sys.exit(app())"]
    process = subprocess.Popen(
        [*command, *emotion(data, cut, **options)], stderr=subprocess.DEVNULL, env=one_thread
    )
    last = cut / "checkpoints" / "last.ckpt"
    wait_until(
        lambda: last.exists() and torch.load(last, weights_only=True)["epoch"] >= 1,
        "a checkpoint after the first epoch",
        120,
    )
    process.kill()
    process.wait()
    assert not (cut / "result.json").exists()

    assert app(emotion(data, cut, **options)) == 0
    first, second = load_weights(whole), load_weights(cut)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert load_result(whole)["valid"] == load_result(cut)["valid"]


def test_a_run_is_extended_along_the_schedule_of_a_longer_one(data, tmp_path):
    options = {"learning_rate": 0.01, "ema_decay": 0.5, "keep": "last"}
    assert app(emotion(data, tmp_path, epochs=1, **options)) == 0
    short = load_weights(tmp_path)
    assert app(emotion(data, tmp_path, epochs=2, **options)) == 0
    long = load_weights(tmp_path)
    moved = (long["classifier.weight"] - short["classifier.weight"]).abs().max()
    assert moved > 1e-3  # the first schedule had ended at a rate of zero
    assert load_settings(tmp_path)["epochs"] == 2
    assert load_provenance(tmp_path)["extended"] == [1]


def test_a_sweep_trains_what_is_missing_and_tabulates_the_scores(tmp_path, capsys):
    data = write_sets(tmp_path / "few", 32)
    _, *options = emotion(data, tmp_path / "sweep", epochs=1, ema_decay=0, keep="last")
    command = ["sweep", "emotion", *options, "--learning_rate", "1e-9,0.02", "--seed", "1,2"]
    assert app(command) == 0
    names = [f"learning_rate={rate},seed={seed}" for rate in ("1e-9", "0.02") for seed in (1, 2)]
    assert sorted(each.name for each in (tmp_path / "sweep").iterdir() if each.is_dir()) == sorted(names)
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    first, second = result["rows"]
    assert (first["values"], first["seeds"]) == ({"learning_rate": "1e-9"}, [1, 2])
    valid = load_prepared(data / "ferplus" / "valid")
    right = load_expression(tmp_path / "sweep" / names[3])(torch.from_numpy(valid.crops)).argmax(dim=1)
    right = right.numpy() == valid.arrays["votes"].argmax(axis=1)
    half = choosing_half(valid)
    for name, rows in (("choosing half", half), ("reporting half", ~half)):
        scores = second["scores"][name]
        assert scores["seeds"][1] == pytest.approx(right[rows].mean())
        assert scores["gain"] == pytest.approx(scores["mean"] - first["scores"][name]["mean"])
        assert scores["interval"]["low"] <= scores["mean"] <= scores["interval"]["high"]
    assert "| 0.02 | 2 |" in (tmp_path / "sweep" / "sweep.md").read_text()

    shutil.rmtree(tmp_path / "sweep" / names[0])
    capsys.readouterr()
    assert app(command) == 0
    shown = capsys.readouterr().out
    assert f"[1 of 4] {names[0]}" in shown
    assert shown.count(" of 4] ") == 1
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == result


def test_a_sweep_of_other_settings_in_the_same_folder_is_rejected(data, tmp_path, capsys):
    _, *options = emotion(data, tmp_path, epochs=1)
    for seed in (1, 2):
        start_run(EmotionSettings(out=tmp_path / f"seed={seed}", data=data / "ferplus", epochs=3))
        (tmp_path / f"seed={seed}" / "result.json").write_text("{}")
    assert app(["sweep", "emotion", *options, "--seed", "1,2"]) == 1
    assert "training sweep: " in (error := capsys.readouterr().err)
    assert "seed=1 holds a run with other settings (epochs 3, not 1; " in error
    assert app(["sweep", "verify", "--seed", "1,2"]) == 1
    assert "stage is 'verify'; it must be one of identity, emotion, joint" in capsys.readouterr().err


def test_other_settings_in_the_same_folder_are_rejected(data, runs, capsys):
    assert app(emotion(data, runs / "emotion", **{**STEADY, "ema_decay": 0.4})) == 1
    assert "holds a run with other settings (ema_decay 0.5, not 0.4)" in capsys.readouterr().err
    fewer = STEADY["epochs"] - 1
    assert app(emotion(data, runs / "emotion", **{**STEADY, "epochs": fewer})) == 1
    assert f"(epochs {fewer + 1}, not {fewer})" in capsys.readouterr().err


def test_a_start_from_another_network_is_rejected(data, runs, tmp_path, capsys):
    assert app(emotion(data, tmp_path, start=runs / "identity")) == 1
    error = capsys.readouterr().err
    assert "deepid" in error
    assert "small-resnet" in error


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; it must be at least 1"),
        ("batch_size", 1, "batch_size is 1; it must be at least 2"),
        ("learning_rate", 0, "learning_rate is 0.0; it must be above 0"),
        ("network", "vgg", "network is 'vgg'; it must be one of small-resnet, resnet18-half, resnet18"),
        ("data", "nowhere", "nowhere/train holds no prepared set"),
    ],
)
def test_invalid_input_is_named_with_its_limit(data, tmp_path, capsys, option, value, message):
    assert app([*emotion(data, tmp_path / "run"), f"--{option}", str(value)]) == 1
    assert message in capsys.readouterr().err
