"""Fusing heads does not change the outputs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.vision.onnx import open_session
from service.vision.weights.download import HEADS, LEVELS, fuse_heads

CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
FEATURES = 8


def separate_heads(rng: np.random.Generator) -> onnx.ModelProto:
    """Make YuNet's heads with random weights: a pointwise and a depthwise convolution per level and head."""
    nodes, weights, outputs = [], [], []
    for head in HEADS:
        channels = CHANNELS[head]
        for level in range(LEVELS):
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
        for level in range(LEVELS)
    ]
    graph = helper.make_graph(nodes, "heads", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def test_fused_heads_have_the_outputs_of_separate_ones() -> None:
    rng = np.random.default_rng(0)
    model = separate_heads(rng)
    inputs = {
        f"level_{level}": rng.normal(size=(1, FEATURES, 12 >> level, 20 >> level)).astype(np.float32)
        for level in range(LEVELS)
    }
    separate = open_session(model.SerializeToString()).run(None, inputs)

    fuse_heads(model)

    onnx.checker.check_model(model)
    fused = open_session(model.SerializeToString()).run(None, inputs)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 2 * LEVELS
    for one, other in zip(separate, fused, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
