import copy

import numpy as np
import onnxruntime
import pytest
import torch
from face_network import CHANNELS, DEAD, FEATURES, write_face_network

from training.networks.blocks import FADE_STEPS, ConvNorm, FadingPReLU, calibrate, fuse
from training.networks.onnx_backbone import SIDE, OnnxBackbone
from training.networks.tandem import EmotionNet, build_backbone


@pytest.fixture
def path(tmp_path):
    return write_face_network(tmp_path / "face.onnx")


@pytest.fixture
def crops():
    return torch.randint(0, 256, (5, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def embeddings(path, crops):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = np.repeat((crops.numpy().astype(np.float32) - 127.5) / 128, 3, axis=1)
    return np.concatenate([session.run(None, {"input": each[None]})[0].reshape(1, -1) for each in inputs])


def test_it_embeds_gray_crops_as_the_file_does_before_and_after_its_normalizations_are_set(path, crops):
    backbone = OnnxBackbone(path).eval()
    expected = embeddings(path, crops)
    with torch.inference_mode():
        assert np.allclose(backbone(crops), expected / np.sqrt(1 + 1e-5), atol=1e-5)
    calibrate(backbone, crops)
    with torch.inference_mode():
        assert np.allclose(backbone(crops), expected / np.sqrt(1 + 1e-5), atol=1e-5)
    # In training the statistics of the batch are used, which are these.
    backbone.train()
    backbone.output_norm.eval()
    assert np.allclose(backbone(crops).detach(), expected / np.sqrt(1 + 1e-5), atol=0.02)


def test_dead_channels_are_removed(path):
    convolutions = [part[0] for part in OnnxBackbone(path).parts.values() if isinstance(part, ConvNorm)]
    stem, depthwise, project, *others = convolutions
    alive = CHANNELS - DEAD
    assert stem.weight.shape == (alive, 1, 3, 3)
    assert (depthwise.weight.shape, depthwise.groups) == ((alive, 1, 3, 3), alive)
    assert project.weight.shape == (FEATURES, alive, 1, 1)
    assert all(len(each.weight) == FEATURES for each in others)


def test_a_network_for_larger_faces_gets_a_smaller_last_kernel(tmp_path, crops):
    backbone = OnnxBackbone(write_face_network(tmp_path / "face.onnx", last_kernel=7)).eval()
    *_, last = (part[0] for part in backbone.parts.values() if isinstance(part, ConvNorm))
    assert last.kernel_size == (4, 4)
    assert backbone(crops).shape == (5, FEATURES)


def test_prelus_fade_into_relus_which_fusing_puts_in_their_place(path):
    backbone = OnnxBackbone(path)
    fading = next(part for part in backbone.parts.values() if isinstance(part, FadingPReLU))
    x = -torch.ones(1, CHANNELS - DEAD, 2, 2)
    fading.eval()
    assert torch.equal(fading(x)[0, :, 0, 0], -fading.slopes)
    fading.train()
    for _ in range(FADE_STEPS // 2):
        halfway = fading(x)
    assert torch.allclose(halfway[0, :, 0, 0], -fading.slopes / 2)
    assert any(isinstance(part, FadingPReLU) for part in fuse(copy.deepcopy(backbone).eval()).parts.values())
    for part in backbone.parts.values():
        if isinstance(part, FadingPReLU):
            part.steps.fill_(FADE_STEPS)
    assert not fading(x).any()
    crops = torch.randint(0, 256, (2, 1, 48, 48)).to(torch.uint8)
    backbone.eval()
    fused = fuse(copy.deepcopy(backbone))
    assert not any(isinstance(part, FadingPReLU | ConvNorm) for part in fused.parts.values())
    assert torch.allclose(fused(crops), backbone(crops), atol=1e-5)


def test_an_emotion_network_of_it_learns_from_48_pixel_crops(path):
    network = EmotionNet(str(path), 8, 0.0)
    logits = network(torch.zeros(2, 1, 48, 48, dtype=torch.uint8))
    logits.sum().backward()
    assert logits.shape == (2, 8)
    assert all(
        part[0].weight.grad.isfinite().all()
        for part in network.backbone.parts.values()
        if isinstance(part, ConvNorm)
    )


def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx does not exist"):
        build_backbone(str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match=r"text\.onnx is not an ONNX network"):
        build_backbone(str(tmp_path / "text.onnx"))
    write_face_network(tmp_path / "face.onnx", last="Softmax")
    with pytest.raises(ValueError, match=r"face\.onnx has the operation Softmax"):
        build_backbone(str(tmp_path / "face.onnx"))
    write_face_network(tmp_path / "large.onnx", last_kernel=3)
    assert build_backbone(str(tmp_path / "large.onnx")).features == FEATURES * 4
