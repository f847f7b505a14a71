"""Adapting the networks does not change what they compute."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.vision.onet import INPUT_SIZE
from service.vision.onnx import open_session
from service.vision.weights import FOLDER, ONET, read_weights
from service.vision.weights.download import FEATURES as ONET_FEATURES
from service.vision.weights.download import HEADS, STRIDES, fuse_heads, rewrite_prelu

CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
FEATURES = 8


def separate_heads(rng: np.random.Generator) -> onnx.ModelProto:
    """Make YuNet's heads with random weights: a pointwise and a depthwise convolution per level and head."""
    nodes, weights, outputs = [], [], []
    for head in HEADS:
        channels = CHANNELS[head]
        for level in range(len(STRIDES)):
            name = f"bbox_head.multi_level_{head}.{level}"
            for layer, shape in (("conv1", (channels, FEATURES, 1, 1)), ("conv2", (channels, 1, 3, 3))):
                weight = rng.normal(size=shape).astype(np.float32)
                bias = rng.normal(size=channels).astype(np.float32)
                weights.append(numpy_helper.from_array(weight, f"{name}.{layer}.weight"))
                weights.append(numpy_helper.from_array(bias, f"{name}.{layer}.bias"))
                pointwise = layer == "conv1"
                source, target = (f"level_{level}", f"{name}.between") if pointwise else (f"{name}.between", name)
                inputs = [source, f"{name}.{layer}.weight", f"{name}.{layer}.bias"]
                padding = [0] * 4 if pointwise else [1] * 4
                group = 1 if pointwise else channels
                nodes.append(helper.make_node("Conv", inputs, [target], pads=padding, group=group))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, None, None)))
    inputs = [
        helper.make_tensor_value_info(f"level_{level}", TensorProto.FLOAT, (1, FEATURES, None, None))
        for level in range(len(STRIDES))
    ]
    graph = helper.make_graph(nodes, "heads", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def test_fused_heads_have_the_outputs_of_separate_ones() -> None:
    rng = np.random.default_rng(0)
    model = separate_heads(rng)
    inputs = {
        f"level_{level}": rng.normal(size=(1, FEATURES, 12 >> level, 20 >> level)).astype(np.float32)
        for level in range(len(STRIDES))
    }
    separate = open_session(model.SerializeToString()).run(None, inputs)

    fuse_heads(model)

    onnx.checker.check_model(model)
    fused = open_session(model.SerializeToString()).run(None, inputs)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 2 * len(STRIDES)
    by_level = [np.concatenate(separate[level :: len(STRIDES)], axis=1) for level in range(len(STRIDES))]
    for one, other in zip(by_level, fused, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def prelu(slopes: NDArray[np.float32], shape: tuple[int, ...]) -> onnx.ModelProto:
    """Make a network of one PReLU."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    node = helper.make_node("PRelu", ["input", "slopes"], ["output"])
    graph = helper.make_graph([node], "prelu", value[:1], value[1:], [numpy_helper.from_array(slopes, "slopes")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)


@pytest.mark.parametrize("shape", [(2, 16, 7, 5), (3, 16)], ids=["after a convolution", "after a dense layer"])
def test_rewritten_prelu_has_the_same_output(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    slopes = rng.uniform(-1, 1, (1, 16, 1, 1) if len(shape) == 4 else 16).astype(np.float32)
    slopes.flat[:3] = -1, 0, 1
    model = prelu(slopes, shape)
    values = rng.normal(size=shape).astype(np.float32)

    rewrite_prelu(model)

    onnx.checker.check_model(model)
    assert not any(node.op_type == "PRelu" for node in model.graph.node)
    (output,) = open_session(model.SerializeToString()).run(None, {"input": values})
    np.testing.assert_allclose(output, np.where(values > 0, values, slopes * values), rtol=1e-5, atol=1e-6)


def test_prelu_with_a_slope_over_one_is_not_rewritten() -> None:
    with pytest.raises(ValueError, match=r"PReLU output has a slope of 1\.5; it can be rewritten up to 1"):
        rewrite_prelu(prelu(np.full((1, 16, 1, 1), 1.5, np.float32), (1, 16, 4, 4)))


def test_the_added_output_of_onet_is_a_linear_classifier_of_its_features() -> None:
    model = onnx.load_from_string(read_weights(ONET))
    model.graph.output.append(helper.make_tensor_value_info(ONET_FEATURES, TensorProto.FLOAT, None))
    crops = np.random.default_rng(1).normal(size=(3, INPUT_SIZE, INPUT_SIZE, 3)).astype(np.float32)
    hidden, features = open_session(model.SerializeToString()).run(["hidden", ONET_FEATURES], {"input_3": crops})
    numbers = np.load(FOLDER / "hidden.npy")
    odds = features @ numbers[:-1] + numbers[-1]
    np.testing.assert_allclose(hidden[:, 0], 1 / (1 + np.exp(-odds)), atol=1e-4)
