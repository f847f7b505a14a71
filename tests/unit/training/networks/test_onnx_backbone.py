import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from face_network import CHANNELS, DEAD, FEATURES, write_face_network
from onnx import TensorProto, helper, numpy_helper

from training.networks.blocks import FADE_STEPS, ConvNorm, FadingPReLU, calibrate, fuse, unfuse
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
    halted = next(
        part for part in fuse(copy.deepcopy(backbone).eval()).parts.values() if isinstance(part, torch.nn.PReLU)
    )
    assert torch.allclose(halted(x), halfway)
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
    write_classic_network(tmp_path / "lopsided.onnx", pads=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"an operation Conv .*: its padding \[0, 0, 1, 1\] differs"):
        build_backbone(str(tmp_path / "lopsided.onnx"))
    (tmp_path / "structure.json").write_text("{}")
    with pytest.raises(ValueError, match=r"structure\.json is not the structure of a network"):
        build_backbone(str(tmp_path / "structure.json"))


@pytest.mark.parametrize(
    ("kind", "inputs", "options", "message"),
    [
        ("Sub", ["one", "face"], {}, "an operation Sub .*: its first value is a constant"),
        ("Concat", ["face", "face"], {"axis": 2}, "an operation Concat .*: its axis is 2"),
        ("ReduceMean", ["face"], {}, "an operation ReduceMean .*: its axes are"),
    ],
)
def test_operations_that_would_compute_something_else_are_refused(tmp_path, kind, inputs, options, message):
    face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 32, 32])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "c", "h", "w"])
    one = numpy_helper.from_array(np.float32(1), "one")
    graph = helper.make_graph([helper.make_node(kind, inputs, ["out"], **options)], "odd", [face], [out], [one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "odd.onnx")
    with pytest.raises(ValueError, match=message):
        build_backbone(str(tmp_path / "odd.onnx"))


def test_a_network_for_smaller_faces_gets_its_own_size(tmp_path):
    assert build_backbone(str(write_face_network(tmp_path / "small.onnx", last_kernel=3))).features == FEATURES


def write_classic_network(path, pads=(1, 1, 1, 1)):
    """Write a network as they come from MXNet: it scales its input, and ends with a fully connected layer."""
    random = np.random.default_rng(5)
    shapes = {"stem": (4, 3, 3, 3), "full": (FEATURES, 4 * 8 * 8)}
    shapes |= {f"{kind}{name}": (size,) for name, size in ((1, 4), (2, FEATURES)) for kind in "gbmv"}
    weights = {name: random.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"mean": np.float32([[[110]], [[127]], [[140]]])[None], "scale": np.float32(1 / 128)}
    nodes = [
        ("Sub", ["data", "mean"], {}),
        ("Mul", ["Sub", "scale"], {}),
        ("Conv", ["Mul", "stem"], {"strides": [2, 2], "pads": list(pads)}),
        ("BatchNormalization", ["Conv", "g1", "b1", "m1", "v1"], {}),
        ("MaxPool", ["BatchNormalization"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("HardSwish", ["MaxPool"], {}),
        ("Flatten", ["HardSwish"], {}),
        ("Gemm", ["Flatten", "full"], {"transB": 1}),
        ("BatchNormalization", ["Gemm", "g2", "b2", "m2", "v2"], {}),
    ]
    made = [helper.make_node(kind, names, [kind], **options) for kind, names, options in nodes]
    made[-1].output[0] = "embedding"
    graph = helper.make_graph(
        made,
        "face",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", FEATURES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_input_size_color_and_scaling_are_those_of_the_file(tmp_path, channels):
    path = write_classic_network(tmp_path / "classic.onnx")
    generator = torch.Generator().manual_seed(1)
    faces = torch.randint(0, 256, (6, channels, 32, 32), generator=generator).to(torch.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    data = np.ascontiguousarray(faces.expand(-1, 3, -1, -1).numpy().astype(np.float32))
    (expected,) = session.run(None, {"data": data})
    backbone = OnnxBackbone(path, (channels, 32, 32)).eval()
    for _ in range(2):
        with torch.inference_mode():
            assert np.allclose(backbone(faces), expected / np.sqrt(1 + 1e-5), atol=1e-3)
        calibrate(backbone, faces)
    larger = OnnxBackbone(path, (channels, 48, 48)).eval()  # its last layer takes nothing else
    assert larger(torch.zeros(1, channels, 48, 48)).shape == (1, FEATURES)


def test_crops_in_color_are_embedded_as_the_file_does(path):
    faces = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = (faces.numpy().astype(np.float32) - 127.5) / 128
    expected = np.concatenate([session.run(None, {"input": each[None]})[0].reshape(1, -1) for each in inputs])
    with torch.inference_mode():
        answers = OnnxBackbone(path, (3, SIDE, SIDE)).eval()(faces)
    assert np.allclose(answers, expected / np.sqrt(1 + 1e-5), atol=1e-4)


@pytest.mark.parametrize("write", [write_face_network, write_classic_network])
@pytest.mark.parametrize("faded", [False, True])
def test_a_network_is_built_again_from_its_structure(tmp_path, write, faded):
    backbone = OnnxBackbone(write(tmp_path / "face.onnx")).eval()
    for part in backbone.parts.values():
        if faded and isinstance(part, FadingPReLU):
            part.steps.fill_(FADE_STEPS)
    (tmp_path / "structure.json").write_text(json.dumps(backbone.describe()))
    again = build_backbone(str(tmp_path / "structure.json")).eval()
    unfuse(again, fuse(copy.deepcopy(backbone)))
    crops = torch.randint(0, 256, (3, 1, 48, 48), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(again(crops), backbone(crops), atol=1e-4)
