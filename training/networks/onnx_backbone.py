"""A face recognition network, read from an ONNX file, as a backbone that is trained on.

What such a network has learned from millions of faces is the best start for expressions. The file is made to serve
and is not fit to be trained: normalizations are folded into convolutions, channels have died, and the input is
larger than a crop. Each is put right here without changing what the network computes:

- Channels of depthwise convolutions that are always constant are removed. Many are: half of a MobileFaceNet, whose
  weights are denormal numbers, which cost ten times the time of others.
- Behind each convolution is a new normalization, into which ``blocks.calibrate`` puts the statistics of crops.
- A depthwise convolution at the end that is as large as its input shrinks with a smaller input, to its middle.
- Where crops are gray, the weights of the three colors are summed; where only the network is gray, it sees the
  gray of the crops' colors.

In training, every PReLU fades into a ReLU, which costs nothing, because runtimes join it to the convolution.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from training.crop_spec import CROP_SHAPE, CropShape
from training.networks.blocks import ConvNorm, FadingPReLU

if TYPE_CHECKING:
    import onnx

SIDE = 64
"""Pixels that a crop is enlarged to: a multiple of 16, because the networks halve it four times."""

GRAY_SHARES = torch.tensor([0.299, 0.587, 0.114])
"""Shares of red, green and blue in gray, as in the service's gray crops."""

MIN_CHANNEL_WEIGHT = 1e-6
"""The largest weight into a channel times the largest out of it, below which the channel is dead."""


@dataclass(frozen=True)
class _Step:
    """One operation of the graph: the names of its inputs and its output, and its module in ``parts``, if any."""

    operation: str
    inputs: tuple[str, ...]
    output: str
    part: str = ""


@dataclass(frozen=True)
class _Neighbors:
    """The activations between a convolution and the nearest one before or after it, and that one."""

    activations: list[nn.Module]
    convolution: nn.Conv2d


class OnnxBackbone(nn.Module):
    """Map crops to the normalized embeddings of a convolutional face network.

    Args:
        path: The network: input [N, 1 or 3, S, S] with (value - 127.5) / 128, output [N, features]; made of Conv,
            BatchNormalization, PRelu, Relu, Add, GlobalAveragePool, and Flatten or Reshape to vectors.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not an ONNX network, has another operation, or cannot take crops of ``SIDE`` pixels.
    """

    def __init__(self, path: Path, crop: CropShape = CROP_SHAPE) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self._steps: list[_Step] = []
        graph = _read_graph(path)
        self._input = graph.input[0].name
        self._read_steps(graph, path, crop[0])
        self._remove_dead_channels()
        blank = torch.zeros(1, crop[0], SIDE, SIDE)
        self._fit_to(blank, path)
        with torch.no_grad():
            self.features = self._embed(blank).shape[1]
        for name, part in list(self.parts.items()):
            if isinstance(part, nn.Conv2d):
                self.parts[name] = ConvNorm.of(part)
            elif isinstance(part, nn.PReLU):
                self.parts[name] = FadingPReLU(part.weight.detach())
        self.output_norm = nn.BatchNorm1d(self.features)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 or float [N, C, H, W] -> [N, features]."""
        return self.output_norm(self._embed(_enlarge(crops)))  # type: ignore[no-any-return]

    def _embed(self, x: Tensor) -> Tensor:
        values = {self._input: x}
        for step in self._steps:
            inputs = [values[name] for name in step.inputs]
            if step.part:
                values[step.output] = self.parts[step.part](inputs[0])
            elif step.operation == "Add":
                values[step.output] = inputs[0] + inputs[1]
            else:
                values[step.output] = inputs[0].flatten(1)
        return values[self._steps[-1].output].flatten(1)

    def _read_steps(self, graph: "onnx.GraphProto", path: Path, channels: int) -> None:
        import onnx  # only such a file needs it

        weights = {
            each.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(each))) for each in graph.initializer
        }
        for number, node in enumerate(graph.node):
            inputs = tuple(name for name in node.input if name and name not in weights)
            given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            part = _module(node, [weights[name] for name in node.input if name in weights], given)
            if part is None and node.op_type not in ("Add", "Flatten", "Reshape", "Identity"):
                raise ValueError(f"{path} has the operation {node.op_type}, which is not supported")
            name = f"{number}"
            if part is not None:
                self.parts[name] = part
            operation = "Flatten" if node.op_type in ("Reshape", "Identity") else node.op_type
            self._steps.append(_Step(operation, inputs, node.output[0], name if part is not None else ""))
        stem = next((part for part in self.parts.values() if isinstance(part, nn.Conv2d)), None)
        if stem is None or stem.in_channels not in (1, 3):
            raise ValueError(f"{path} does not start with a convolution of 1 or 3 channels")
        if stem.in_channels != channels:
            weight = stem.weight.detach()
            adapted = weight.sum(1, keepdim=True) if channels == 1 else weight * GRAY_SHARES[None, :, None, None]
            stem.weight, stem.in_channels = nn.Parameter(adapted), channels

    @torch.no_grad()
    def _remove_dead_channels(self) -> None:
        """Remove the dead channels between a convolution, a depthwise one and the next convolution."""
        for at, step in enumerate(self._steps):
            depthwise = self._convolution(step)
            if depthwise is None or depthwise.groups == 1 or depthwise.groups != depthwise.in_channels:
                continue
            before, after = self._neighbors(at, -1), self._neighbors(at, 1)
            if before is None or after is None or before.convolution.groups > 1 or after.convolution.groups > 1:
                continue
            first, last = before.convolution, after.convolution
            into, out = depthwise.weight.flatten(1).abs().amax(1), last.weight.abs().amax((0, 2, 3))
            kept = into * out > MIN_CHANNEL_WEIGHT
            # A dead channel has the same value everywhere, which becomes a part of the next bias.
            value = _bias(depthwise)[None, :, None, None]
            for activation in after.activations:
                value = activation(value)
            _bias(last).add_(last.weight[:, ~kept].sum((2, 3)) @ value[0, ~kept, 0, 0])
            rows = kept.nonzero().flatten()
            for convolution in (first, depthwise):
                convolution.weight = nn.Parameter(convolution.weight[rows].clone())
                convolution.bias = nn.Parameter(_bias(convolution)[rows].clone())
                convolution.out_channels = len(rows)
            depthwise.in_channels = depthwise.groups = last.in_channels = len(rows)
            last.weight = nn.Parameter(last.weight[:, rows].clone())
            for activation in (*before.activations, *after.activations):
                if isinstance(activation, nn.PReLU) and activation.weight.numel() > 1:
                    activation.weight = nn.Parameter(activation.weight[rows].clone())
                    activation.num_parameters = len(rows)

    def _neighbors(self, at: int, direction: int) -> "_Neighbors | None":
        """Return what is next to a step, up to a convolution; None if the graph branches or has something else."""
        activations: list[nn.Module] = []
        while 0 <= at + direction < len(self._steps):
            source, user = (self._steps[index] for index in sorted((at, at + direction)))
            users = [step for step in self._steps if source.output in step.inputs]
            at += direction
            part = self.parts[self._steps[at].part] if self._steps[at].part else None
            if user.inputs != (source.output,) or len(users) != 1:
                return None
            if isinstance(part, nn.Conv2d):
                return _Neighbors(activations, part)
            if not isinstance(part, nn.PReLU | nn.ReLU):
                return None
            activations.append(part)
        return None

    def _convolution(self, step: _Step) -> nn.Conv2d | None:
        part = self.parts[step.part] if step.part else None
        return part if isinstance(part, nn.Conv2d) else None

    @torch.no_grad()
    def _fit_to(self, blank: Tensor, path: Path) -> None:
        """Crop the kernels that are larger than their input to the middle, for inputs like ``blank``."""

        def crop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Conv2d)  # noqa: S101 - hooked to these only
            kernel, size = module.kernel_size[0], inputs[0].shape[-1]
            if module.padding[0] or kernel <= size:
                return
            edge = (kernel - size) // 2
            middle = module.weight[:, :, edge : edge + size, edge : edge + size]
            module.weight = nn.Parameter(middle.clone() * kernel / size)
            module.kernel_size = (size, size)

        convolutions = [part for part in self.parts.values() if isinstance(part, nn.Conv2d)]
        hooks = [part.register_forward_pre_hook(crop) for part in convolutions]
        try:
            self._embed(blank)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{path} cannot take an input of {SIDE}x{SIDE} pixels: {error}") from error
        for hook in hooks:
            hook.remove()


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None  # noqa: S101 - _module gives every convolution one
    return convolution.bias


def _read_graph(path: Path) -> "onnx.GraphProto":
    import onnx  # only such a file needs it

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx and protobuf have an exception class for each kind of error
        raise ValueError(f"{path} is not an ONNX network: {error}") from error
    return model.graph


def _module(
    node: "onnx.NodeProto", weights: list[Tensor], given: dict[str, "int | list[int]"]
) -> nn.Module | None:
    """Return the module of a node with weights; None for one without."""
    if node.op_type == "Conv":
        weight, groups = weights[0].float(), int(given.get("group", 1))  # type: ignore[arg-type]
        pads = given.get("pads", [0, 0, 0, 0])
        convolution = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            tuple(given.get("strides", (1, 1))),  # type: ignore[arg-type]
            tuple(pads[:2]),  # type: ignore[index]
            tuple(given.get("dilations", (1, 1))),  # type: ignore[arg-type]
            groups,
        )
        convolution.weight.data = weight.clone()
        _bias(convolution).data = weights[1].float().clone() if len(weights) > 1 else torch.zeros(len(weight))
        return convolution
    if node.op_type == "BatchNormalization":
        normalization = nn.BatchNorm2d(len(weights[0]), float(given.get("epsilon", 1e-5)))  # type: ignore[arg-type]
        values = (normalization.weight, normalization.bias, normalization.running_mean, normalization.running_var)
        for own, value in zip(values, weights, strict=True):
            own.data.copy_(value)  # type: ignore[union-attr]
        return normalization
    if node.op_type == "PRelu":
        activation = nn.PReLU(weights[0].numel())
        activation.weight.data = weights[0].float().flatten().clone()
        return activation
    if node.op_type == "Relu":
        return nn.ReLU()
    return nn.AdaptiveAvgPool2d(1) if node.op_type == "GlobalAveragePool" else None


def _enlarge(crops: Tensor) -> Tensor:
    """Scale pixel values 0..255 as face networks expect them, and crops to ``SIDE`` pixels."""
    scaled = (crops.float() - 127.5) / 128
    return nn.functional.interpolate(scaled, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
