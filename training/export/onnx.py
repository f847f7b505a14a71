"""The network as ``model.onnx``: what the local Triton runs on a CPU, without torch."""

import logging
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from service.vision.onnx import open_session
from training.crop_spec import CropShape
from training.networks.blocks import fuse

OPSET = 18
INPUT, OUTPUT = "face", "probabilities__0"
"""Names in the file; Triton's configuration has the same."""


def save_onnx(served: nn.Module, path: Path, crop: CropShape) -> None:
    """Write the network with batch normalization folded into its convolutions and a batch of any size.

    Args:
        served: uint8 [N, *crop] -> float32 [N, 8], in eval mode.
        path: the file to write; it holds the weights too.
        crop: (channels, height, width) of a crop.
    """
    folded = fuse(deepcopy(served)).eval()
    example = torch.zeros(2, *crop, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter warns of its own dependencies' deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            folded,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - with dynamo it returns one
    model = program.model_proto
    # The exporter notes each node's place in our source, with the path on this machine.
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
    model.graph.ClearField("doc_string")
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class OnnxNetwork:
    """A ``model.onnx`` to call like the network that it was made from."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path.read_bytes())

    def __call__(self, face: torch.Tensor) -> torch.Tensor:
        """uint8 [N, C, H, W] -> float32 [N, 8]."""
        (probabilities,) = self._session.run([OUTPUT], {INPUT: face.numpy()})
        answers: NDArray[np.float32] = probabilities
        return torch.from_numpy(answers)
