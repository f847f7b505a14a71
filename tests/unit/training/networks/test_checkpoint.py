import pytest
import torch

from training.networks.checkpoint import load_checkpoint
from training.networks.tandem import EmotionNet, build_backbone


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize("nested", [False, True])
def test_the_weights_are_found_where_checkpoints_keep_them(tmp_path, prefix, nested):
    trained, started = build_backbone("small-resnet"), build_backbone("small-resnet")
    weights = {f"{prefix}{name}": value for name, value in trained.state_dict().items()}
    weights["head.weight"] = torch.zeros(3)
    torch.save({"epoch": 3, "state_dict": weights} if nested else weights, tmp_path / "weights.pt")
    load_checkpoint(started, tmp_path / "weights.pt")
    for name, value in trained.state_dict().items():
        assert torch.equal(started.state_dict()[name], value), name


def test_a_damaged_safetensors_file_is_named(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a checkpoint of weights alone"):
        load_checkpoint(build_backbone("small-resnet"), tmp_path / "weights.safetensors")


def test_a_network_of_another_kind_is_refused_with_the_first_weight_that_does_not_fit(tmp_path):
    torch.save(EmotionNet("resnet18-half", 8, 0.0).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt fits \d+ of the \d+ weights .* Choose the --network"):
        load_checkpoint(build_backbone("small-resnet"), tmp_path / "weights.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"network": build_backbone("deepid")}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of weights alone"):
        load_checkpoint(build_backbone("deepid"), tmp_path / "weights.pt")
