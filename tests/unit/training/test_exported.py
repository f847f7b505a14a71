"""The committed model, read as the runs that it was made of."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from face_network import write_face_network

from training.cli import app
from training.export.repository import write_structures
from training.export.torchscript import ServedNet, to_torchscript
from training.networks.tandem import TandemNet
from training.runs import lineage, load_provenance, load_settings, load_weights
from training.trained import load_expression, load_identity

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

VERSION = Path(__file__).parents[3] / "model_repository" / "tandem" / "1"


@pytest.fixture
def copy(tmp_path):
    """Copy the committed version, with a function to change its model card."""
    version = shutil.copytree(VERSION, tmp_path / "tandem" / "2")

    def change(edit):
        card = json.loads((version / "model_card.json").read_text())
        edit(card)
        (version / "model_card.json").write_text(json.dumps(card))
        return version

    return change


def crops():
    return torch.randint(0, 256, (4, 1, 48, 48), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def test_the_joint_network_answers_like_the_file():
    temperature = json.loads((VERSION / "model_card.json").read_text())["export"]["temperature"]
    with torch.inference_mode():
        expected = torch.jit.load(VERSION / "model.pt")(crops())
        assert torch.allclose(
            (load_expression(VERSION)(crops()) / temperature).softmax(dim=1), expected, atol=1e-5
        )


def test_the_identity_and_emotion_runs_are_the_parts_of_the_joint_one():
    joint = load_weights(VERSION)
    with torch.inference_mode():
        assert load_identity(VERSION)(crops()).shape == (4, 160)
    emotion = load_weights(VERSION, "emotion")
    assert torch.equal(emotion["classifier.weight"], joint["classifier.1.weight"][:, 160:])
    assert torch.equal(emotion["backbone.stem.0.0.weight"], joint["emotion.stem.0.0.weight"])


@pytest.mark.parametrize(
    ("asked", "stage", "network"),
    [
        (("identity",), "identity", "deepid-wide"),
        (("identity", "emotion"), "emotion", "resnet18-half"),
        (("emotion", "joint", "probe"), "joint", None),
        ((), "joint", None),
    ],
)
def test_a_version_stands_for_the_most_that_a_command_can_use(asked, stage, network):
    settings = load_settings(VERSION, *asked)
    assert (settings["stage"], settings.get("network")) == (stage, network)
    assert load_provenance(VERSION)["commit"]


def test_its_name_in_a_lineage_is_that_of_the_model(copy):
    assert list(lineage(copy(lambda _: None))) == ["tandem/2"]


def test_a_model_that_was_trained_on_from_another_keeps_the_names_of_its_networks(copy):
    def train_on(card):
        joint = card["stages"].pop("joint")
        joint["settings"] |= {"identity": "models/tandem/1", "emotion": "models/tandem/1"}
        card["export"]["networks"] = {"identity": "deepid-wide", "emotion": "resnet18-half"}
        card["stages"] = {"tandem/1": joint, "joint": joint}

    with torch.inference_mode():
        assert torch.equal(load_identity(copy(train_on))(crops()), load_identity(VERSION)(crops()))


def test_a_network_that_came_from_a_file_is_built_again_from_its_structure(copy, tmp_path):
    face = str(write_face_network(tmp_path / "face.onnx"))
    trained = TandemNet("deepid-wide", face, 8, hidden=0, dropout=0.2).eval()
    names = {"identity": "deepid-wide", "emotion": face}

    def start_from_a_file(card):
        card["stages"]["emotion"]["settings"]["network"] = face
        card["export"]["networks"] = described

    described = write_structures(tmp_path, trained, names)
    version = copy(start_from_a_file)
    assert described == {"identity": "deepid-wide", "emotion": "emotion-network.json"}
    (tmp_path / described["emotion"]).rename(version / described["emotion"])
    Path(face).unlink()
    to_torchscript(ServedNet(trained, 1.0, mirror=False), (1, 48, 48)).save(str(version / "model.pt"))
    with torch.inference_mode():
        assert torch.allclose(load_expression(version)(crops()), trained(crops()), atol=1e-4)
    assert load_settings(version, "emotion")["network"] == str(version / "emotion-network.json")


def test_a_network_from_a_file_whose_structure_is_missing_is_refused(copy, tmp_path, capsys):
    def start_from_a_file(card):
        card["stages"]["emotion"]["settings"]["network"] = "faces.onnx"
        del card["export"]["networks"]  # an export from before structures were written

    version = copy(start_from_a_file)
    with pytest.raises(ValueError, match=r"its emotion network is faces\.onnx, which model\.pt does not describe"):
        load_expression(version)
    restore = ["restore", "--version", str(version), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert app(restore) == 1
    assert "use the run that it was exported from" in capsys.readouterr().err
