"""The graph of an ONNX file, read into torch modules and the steps that join them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

FLAT = ("Flatten", "Reshape", "Squeeze", "Gemm", "MatMul")
"""Operations that give vectors."""

JOINED = ("Add", "Mul", "Sub", "Div", "Concat")
"""Operations of two values, or of a value and a constant; of any number of values for the last."""

UNCHANGED = ("Identity", "Dropout")


@dataclass(frozen=True)
class Step:
    """One operation of the graph: the names of its inputs and its output, and its module, if any, by name."""

    operation: str
    inputs: tuple[str, ...]
    output: str
    part: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A network; ``side`` is that of its input in pixels, None if the file leaves it open."""

    input: str
    side: int | None
    steps: list[Step]
    parts: dict[str, nn.Module]


class Elementwise(nn.Module):
    """Add, subtract, multiply or divide by a constant, which is not trained."""

    def __init__(self, operation: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.operation, self.shape = operation, tuple(shape)
        self.constant: Tensor
        self.register_buffer("constant", torch.zeros(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] -> the same."""
        return join(self.operation, x, self.constant)


def join(operation: str, first: Tensor, second: Tensor, *others: Tensor) -> Tensor:
    """Apply one of ``JOINED`` to tensors."""
    if operation == "Concat":
        return torch.cat([first, second, *others], dim=1)
    if operation == "Add":
        return first + second
    if operation == "Sub":
        return first - second
    if operation == "Mul":
        return first * second
    return first / second


def read_graph(path: Path) -> Graph:
    """Read a network.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not an ONNX network, or has something that cannot be trained on.
    """
    import onnx  # only such a file needs it

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx and protobuf have an exception class for each kind of error
        raise ValueError(f"{path} is not an ONNX network: {error}") from error
    graph = model.graph
    constants = {
        each.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(each))) for each in graph.initializer
    }
    steps: list[Step] = []
    parts: dict[str, nn.Module] = {}
    vectors: set[str] = set()
    for number, node in enumerate(graph.node):
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = torch.from_numpy(np.array(onnx.numpy_helper.to_array(given["value"])))
            continue
        inputs = tuple(name for name in node.input if name and name not in constants)
        if not inputs and node.op_type == "Identity":  # weights that two operations share
            constants[node.output[0]] = constants[node.input[0]]
            continue
        known = [constants[name] for name in node.input if name in constants]
        is_vector = node.op_type in FLAT or bool(vectors.intersection(inputs))
        try:
            part = _module(node, known, given, is_vector, is_first=node.input[0] in constants)
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} has an operation {node.op_type} that cannot be read: {error}") from error
        supported = (*FLAT, *UNCHANGED, *JOINED)
        if part is None and (node.op_type not in supported or (node.op_type in JOINED and len(inputs) < 2)):
            raise ValueError(f"{path} has the operation {node.op_type}, which is not supported")
        if part is not None:
            parts[str(number)] = part
        if is_vector:
            vectors.add(node.output[0])
        steps.append(Step(node.op_type, inputs, node.output[0], "" if part is None else str(number)))
    weights = {each.name for each in graph.initializer}
    image = next(each for each in graph.input if each.name not in weights)
    sides = [each.dim_value for each in image.type.tensor_type.shape.dim][2:]
    return Graph(image.name, sides[0] if len(sides) == 2 and sides[0] else None, steps, parts)


def _module(
    node: "onnx.NodeProto",
    constants: list[Tensor],
    given: Mapping[str, Any],
    is_vector: bool,
    *,
    is_first: bool,
) -> nn.Module | None:
    """Return the module of a node with weights or options; None for one without.

    ``is_vector`` says of what its result is, and ``is_first`` whether its first input is a constant.
    """
    kind = node.op_type
    if kind == "Conv":
        return _convolution(constants, given)
    if kind == "BatchNormalization":
        cls = nn.BatchNorm1d if is_vector else nn.BatchNorm2d
        normalization = cls(len(constants[0]), float(given.get("epsilon", 1e-5)))
        values = (
            normalization.weight,
            normalization.bias,
            normalization.running_mean,
            normalization.running_var,
        )
        for own, value in zip(values, constants, strict=True):
            own.data.copy_(value)  # type: ignore[union-attr]
        return normalization
    if kind in ("Gemm", "MatMul"):
        return _linear(constants, given)
    if kind == "PRelu":
        activation = nn.PReLU(constants[0].numel())
        activation.weight.data = constants[0].float().flatten().clone()
        return activation
    if kind in JOINED[:4] and len(constants) == 1:
        if is_first and kind in ("Sub", "Div"):
            raise ValueError("its first value is a constant")
        constant = Elementwise(kind, tuple(constants[0].shape))
        constant.constant.copy_(constants[0].float())
        return constant
    if kind == "Concat" and (constants or given["axis"] != 1):
        raise ValueError(f"its axis is {given['axis']}, or it has constants; only channels can be put together")
    return _pooling(kind, given, constants) or _activation(kind, given, constants)


def _convolution(constants: list[Tensor], given: Mapping[str, Any]) -> nn.Conv2d:
    weight, groups = constants[0].float(), int(given.get("group", 1))
    kernel, strides = tuple(weight.shape[2:]), tuple(given.get("strides", (1, 1)))
    convolution = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,  # type: ignore[arg-type]
        strides,
        _padding(given, kernel, strides),
        tuple(given.get("dilations", (1, 1))),
        groups,
    )
    convolution.weight.data = weight.clone()
    assert convolution.bias is not None  # noqa: S101 - built with one
    bias = constants[1].float().clone() if len(constants) > 1 else torch.zeros(len(weight))
    convolution.bias.data = bias
    return convolution


def _padding(given: Mapping[str, Any], kernel: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    automatic = given.get("auto_pad", b"NOTSET").decode()
    if automatic.startswith("SAME"):
        if set(strides) != {1} or any(side % 2 == 0 for side in kernel):
            raise ValueError(f"its padding is {automatic} with strides {strides} and kernel {kernel}")
        return kernel[0] // 2, kernel[1] // 2
    pads = list(given.get("pads", (0, 0, 0, 0)))
    if pads[:2] != pads[2:]:
        raise ValueError(f"its padding {pads} differs between the sides")
    return pads[0], pads[1]


def _linear(constants: list[Tensor], given: Mapping[str, Any]) -> nn.Linear:
    if given.get("transA", 0) or {given.get("alpha", 1.0), given.get("beta", 1.0)} != {1.0}:
        raise ValueError("it is scaled or transposed")
    weight = constants[0].float() if given.get("transB", 0) else constants[0].float().T
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data = weight.contiguous().clone()
    linear.bias.data = constants[1].float().clone() if len(constants) > 1 else torch.zeros(len(weight))
    return linear


def _pooling(kind: str, given: Mapping[str, Any], constants: list[Tensor]) -> nn.Module | None:
    if kind == "GlobalAveragePool":
        return nn.AdaptiveAvgPool2d(1)
    if kind == "ReduceMean":
        axes = given.get("axes") or (constants[0].tolist() if constants else [])
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            raise ValueError(f"its axes are {list(axes)}; only the mean over height and width is supported")
        return nn.AdaptiveAvgPool2d(1)
    if kind not in ("MaxPool", "AveragePool"):
        return None
    kernel = tuple(given["kernel_shape"])
    strides = tuple(given.get("strides", (1, 1)))
    padding, up = _padding(given, kernel, strides), bool(given.get("ceil_mode", 0))
    if kind == "MaxPool":
        return nn.MaxPool2d(kernel, strides, padding, ceil_mode=up)
    counted = bool(given.get("count_include_pad", 0))
    return nn.AvgPool2d(kernel, strides, padding, up, counted)


def _activation(kind: str, given: Mapping[str, Any], constants: list[Tensor]) -> nn.Module | None:
    if kind == "Clip":
        low, high = [float(each) for each in constants] if len(constants) == 2 else (given["min"], given["max"])
        return nn.Hardtanh(low, high)
    if kind == "LeakyRelu":
        return nn.LeakyReLU(float(given.get("alpha", 0.01)))
    if kind == "HardSigmoid":
        if not math.isclose(given.get("alpha", 0.2), 1 / 6, rel_tol=1e-4):
            raise ValueError("only a slope of 1/6 is supported")
        return nn.Hardsigmoid()
    plain: dict[str, type[nn.Module]] = {
        "Relu": nn.ReLU,
        "Sigmoid": nn.Sigmoid,
        "Tanh": nn.Tanh,
        "HardSwish": nn.Hardswish,
    }
    return plain[kind]() if kind in plain else None
