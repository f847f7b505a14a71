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

Values are scaled by (value - 127.5) / 128, as face networks expect, unless the graph begins by scaling them. In
training, every PReLU fades into a ReLU, which costs nothing, because runtimes join it to the convolution.
"""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.crop_spec import CROP_SHAPE, CropShape
from training.networks.blocks import FADE_STEPS, ConvNorm, FadingPReLU, Normalize, calibrate
from training.networks.onnx_graph import JOINED, Elementwise, Graph, Step, join, read_graph

SIDE = 64
"""Pixels that a smaller crop is enlarged to: a multiple of 16, because the networks halve it four times. Their own
size would take three times as long. A larger crop gets the network's own size."""

GRAY_SHARES = torch.tensor([0.299, 0.587, 0.114])
"""Shares of red, green and blue in gray, as in the service's gray crops."""

MIN_CHANNEL_WEIGHT = 1e-6
"""The largest weight into a channel times the largest out of it, below which the channel is dead."""

ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    nn.BatchNorm2d: ("num_features", "eps"),
    nn.BatchNorm1d: ("num_features", "eps"),
    nn.Linear: ("in_features", "out_features"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.ReLU: (),
    nn.Sigmoid: (),
    nn.Tanh: (),
    nn.Hardswish: (),
    nn.Hardsigmoid: (),
    nn.Hardtanh: ("min_val", "max_val"),
    nn.LeakyReLU: ("negative_slope",),
    Elementwise: ("operation", "shape"),
}
"""What a part is built with again, all but its weights."""


@dataclass(frozen=True)
class _Neighbors:
    """The activations between a convolution and the nearest one before or after it, and that one."""

    activations: list[nn.Module]
    convolution: nn.Conv2d


class OnnxBackbone(nn.Module):
    """Map crops to the normalized embeddings of a convolutional face network.

    Args:
        path: The network in ONNX form, input [N, 1 or 3, S, S] in RGB, output [N, features]; or its structure,
            which ``describe`` has given, as JSON.
        crop: (channels, height, width) of a crop.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not an ONNX network, has another operation, or cannot take such crops.
    """

    def __init__(self, path: Path, crop: CropShape = CROP_SHAPE) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self._steps: list[Step] = []
        self._crop = crop
        if path.suffix == ".json":
            self._rebuild(path)
            return
        graph = read_graph(path)
        self._input, self._steps, self.parts = graph.input, graph.steps, nn.ModuleDict(graph.parts)
        first = next((step for step in self._steps if graph.input in step.inputs), None)
        scales = first is not None and first.part and isinstance(self.parts[first.part], Elementwise)
        self.normalize = Normalize(0.0, 1.0) if scales else Normalize(127.5, 128.0)
        self._channels = self._fit_to_color(crop[0], path, scales=bool(scales))
        self._remove_dead_channels()
        self._side, self.features = self._fit_to_size(graph, crop, path)
        for name, part in list(self.parts.items()):
            if isinstance(part, nn.Conv2d):
                self.parts[name] = ConvNorm.of(part)
            elif isinstance(part, nn.PReLU):
                self.parts[name] = FadingPReLU(part.weight.detach())
        self.output_norm = nn.BatchNorm1d(self.features)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 or float [N, C, H, W] -> [N, features]."""
        x = self.normalize(crops)
        if self._crop[1:] != (self._side, self._side):
            x = nn.functional.interpolate(x, size=(self._side, self._side), mode="bilinear", align_corners=False)
        return self.output_norm(self._embed(x))  # type: ignore[no-any-return]

    def _embed(self, x: Tensor) -> Tensor:
        values = {self._input: x if self._crop[0] == self._channels else x.expand(-1, self._channels, -1, -1)}
        for step in self._steps:
            inputs = [values[name] for name in step.inputs]
            if step.part:
                values[step.output] = self.parts[step.part](inputs[0])
            elif step.operation in JOINED:
                values[step.output] = join(step.operation, *inputs)
            elif step.operation in ("Flatten", "Reshape", "Squeeze"):
                values[step.output] = inputs[0].flatten(1)
            else:
                values[step.output] = inputs[0]
        return values[self._steps[-1].output].flatten(1)

    def describe(self) -> dict[str, Any]:
        """Return the structure for JSON, with which the network is built again without its file."""
        return {
            "input": self._input,
            "channels": self._channels,
            "side": self._side,
            "features": self.features,
            "mean": self.normalize.mean,
            "scale": self.normalize.scale,
            "steps": [asdict(step) for step in self._steps],
            "parts": {name: _describe(part) for name, part in self.parts.items()},
        }

    def _rebuild(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
        try:
            known = json.loads(path.read_text())
            self._input, self._channels, self._side = known["input"], known["channels"], known["side"]
            self.features = known["features"]
            self.normalize = Normalize(known["mean"], known["scale"])
            self._steps = [Step(**{**step, "inputs": tuple(step["inputs"])}) for step in known["steps"]]
            self.parts = nn.ModuleDict({name: _build(part) for name, part in known["parts"].items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the structure of a network: {error!r}") from error
        self.output_norm = nn.BatchNorm1d(self.features)

    @torch.no_grad()
    def _fit_to_color(self, channels: int, path: Path, *, scales: bool) -> int:
        """Let the first convolution take crops of this many channels; return how many it takes."""
        stem = next((part for part in self.parts.values() if isinstance(part, nn.Conv2d)), None)
        if stem is None or stem.in_channels not in (1, 3):
            raise ValueError(f"{path} does not start with a convolution of 1 or 3 channels")
        if stem.in_channels == channels:
            return channels
        if scales and channels == 1:  # each color is scaled in its own way, so that gray is given three times
            return 3
        weight = stem.weight.detach()
        adapted = weight.sum(1, keepdim=True) if channels == 1 else weight * GRAY_SHARES[None, :, None, None]
        stem.weight, stem.in_channels = nn.Parameter(adapted), channels
        return channels

    def _fit_to_size(self, graph: Graph, crop: CropShape, path: Path) -> tuple[int, int]:
        """Choose the side that crops are scaled to; return it and the number of features."""
        largest = max(crop[1:])
        own = graph.side or -(-max(largest, SIDE) // 16) * 16
        sides = [SIDE, own] if largest <= SIDE < own else [own]
        whole = deepcopy(self.parts)
        for side in sides:
            blank = torch.zeros(1, crop[0], side, side)
            try:
                return side, self._crop_kernels(blank).shape[1]
            except (RuntimeError, KeyError, ValueError) as error:
                # A fully connected layer fits the network's own size only.
                self.parts = deepcopy(whole)
                failure = error
        raise ValueError(f"{path} cannot take an input of {sides[-1]}x{sides[-1]} pixels: {failure}") from failure

    @torch.no_grad()
    def _crop_kernels(self, blank: Tensor) -> Tensor:
        """Crop the kernels that are larger than their input to the middle; return the embedding of ``blank``."""

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
        self.parts.eval()
        try:
            return self._embed(blank)
        finally:
            self.parts.train()
            for hook in hooks:
                hook.remove()

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

    def _convolution(self, step: Step) -> nn.Conv2d | None:
        part = self.parts[step.part] if step.part else None
        return part if isinstance(part, nn.Conv2d) else None


def calibrate_from_file(network: nn.Module, crops: Tensor) -> None:
    """Give the networks among its parts that came from a file the statistics of crops [N, C, H, W]."""
    for module in network.modules():
        if isinstance(module, OnnxBackbone):
            calibrate(module, crops)


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None  # noqa: S101 - read_graph gives every convolution one
    return convolution.bias


def _describe(part: nn.Module) -> dict[str, Any]:
    """Return what a part is built with again."""
    if isinstance(part, ConvNorm):
        return {**_describe(part[0]), "normalized": True}
    if isinstance(part, FadingPReLU):
        faded = part.steps >= FADE_STEPS
        return {"kind": "ReLU"} if faded else {"kind": "FadingPReLU", "slopes": len(part.slopes)}
    return {"kind": type(part).__name__, **{name: getattr(part, name) for name in ARGUMENTS[type(part)]}}


def _build(known: dict[str, Any]) -> nn.Module:
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    kind, normalized = arguments.pop("kind"), arguments.pop("normalized", False)
    if kind == "FadingPReLU":
        return FadingPReLU(torch.zeros(arguments["slopes"]))
    part = {each.__name__: each for each in ARGUMENTS}[str(kind)](**arguments)
    return ConvNorm.of(part) if normalized and isinstance(part, nn.Conv2d) else part
