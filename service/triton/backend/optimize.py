"""Speeds up a loaded TorchScript network for its device: precision, memory layout, weights in oneDNN's layout.

Half precision is float16 on a GPU, and bfloat16 on a CPU that has instructions for it. It is used if the network
computes in the type of its weights, as exported networks do, and if its outputs for noise hardly change.

Imported by its bare name from the same folder; needs only torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fixed_batches import as_sequence  # type: ignore[import-not-found]

Log = Callable[[str], None]

MAX_DIFFERENCE = 0.05
"""Maximum change of a probability by half precision, on noise. On FER+ Valid it is at most 0.017."""


def prepare(
    load: Callable[[], torch.jit.ScriptModule],
    sample: Sequence[torch.Tensor],
    device: torch.device,
    *,
    half: bool,
    log: Log,
) -> torch.jit.ScriptModule:
    """Optimize a network for inference on ``device``, in half precision if wanted and possible.

    Args:
        load: returns a new copy of the network on ``device`` at each call.
        sample: inputs of two rows on ``device`` to compare both precisions; if empty, full precision is used.
        device: where the network runs.
        half: whether half precision is wanted.
        log: called with the reason if half precision is wanted but not used.
    """
    full = optimize(load(), device)
    dtype = half_type(device)
    if not (half and dtype and sample):
        return full
    try:
        halved = halve(load(), dtype, sample)
        answers = [as_sequence(network(*sample)) for network in (full, halved)]
        if [each.dtype for each in answers[0]] != [each.dtype for each in answers[1]]:
            raise TypeError("its outputs would have another data type")
        difference = max(float((a.float() - b.float()).abs().max()) for a, b in zip(*answers, strict=True))
    except Exception as error:  # a foreign model may fail in any way
        log(f"using full precision: the network cannot run in {dtype}: {last_line(error)[:100]}")
        return full
    if not difference <= MAX_DIFFERENCE:  # also true for NaN
        log(f"using full precision: {dtype} changes outputs by {difference:.2g}; the limit is {MAX_DIFFERENCE}")
        return full
    return halved


def half_type(device: torch.device) -> torch.dtype | None:
    """The device's half precision; None where that would be no quicker."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else None


def optimize(model: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Fold constants and batch norms and, on a CPU, use oneDNN's layouts: 40 % less time for a batch of 32."""
    frozen = freeze(model)
    return torch.jit.optimize_for_inference(frozen) if device.type == "cpu" else frozen


def halve(
    model: torch.jit.ScriptModule, dtype: torch.dtype, sample: Sequence[torch.Tensor]
) -> torch.jit.ScriptModule:
    """Convert weights to ``dtype`` and channels last; for bfloat16, also to oneDNN's layout."""
    halved = freeze(model.to(dtype).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    if dtype is torch.bfloat16:
        lay_out_convolutions(halved, sample)
    return halved


def freeze(model: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Freeze a network; one that was saved frozen is returned as it is."""
    return torch.jit.freeze(model.eval()) if hasattr(model, "training") else model


def last_line(error: Exception) -> str:
    """The last line of an error: TorchScript puts the reason there, below the source code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


# A traced convolution, and the oneDNN operation by which TorchInductor replaces it, which takes weights in the
# layout of its kernel and fuses the addition of a shortcut and ReLU. A plain convolution converts its weights in
# each call, which for a single face takes as long as the convolution itself.
ARGUMENTS = "%x, %w, %b, %stride, %padding, %dilation, %transposed, %out, %groups, %c1, %c2, %c3, %c4"
PLAIN = f"%plain : Tensor = aten::_convolution({ARGUMENTS})"
NOTHING = "%nothing : NoneType = prim::Constant()\n  %scalars : Scalar?[] = prim::ListConstruct()"
POINTWISE = "%result : Tensor = mkldnn::_convolution_pointwise"
PLACES = "%padding, %stride, %dilation, %groups"


def lay_out_convolutions(model: torch.jit.ScriptModule, sample: Sequence[torch.Tensor]) -> None:
    """Replace the convolutions of a frozen network, in place, by ones with weights in oneDNN's layout.

    Args:
        model: a frozen network on the CPU.
        sample: inputs; the layout is the best for their size, but others work too.
    """
    graph = model.graph
    added = f"""{NOTHING}
  %add : str = prim::Constant[value="add"]()
  %relu : str = prim::Constant[value="relu"]()
  {POINTWISE}(%x, %shortcut, %w, %b, {PLACES}, %add, %nothing, %relu, %scalars, %nothing)"""
    for add in ("add", "add_"):
        for relu in ("relu", "relu_"):
            pattern = f"""{PLAIN}
  %sum : Tensor = aten::{add}(%plain, %shortcut, %alpha)
  %result : Tensor = aten::{relu}(%sum)"""
            replace(graph, pattern, added, extra=", %shortcut, %alpha")
    for relu in ("relu", "relu_"):
        replace(graph, f"{PLAIN}\n  %result : Tensor = aten::{relu}(%plain)", pointwise("relu"))
    replace(graph, PLAIN.replace("%plain", "%result"), pointwise("none"))
    torch._C._jit_pass_dce(graph)
    for node, size in zip(convolutions(graph), input_sizes(graph, sample), strict=True):
        position = 1 if node.inputsSize() == 10 else 2  # of the weights: after the shortcut, if there is one
        lay_out_weights(graph, node, position, size)
    torch._C._jit_pass_dce(graph)
    torch._C._jit_pass_lint(graph)


def pointwise(activation: str) -> str:
    """A oneDNN convolution with an activation, as TorchScript IR."""
    return f"""{NOTHING}
  %activation : str = prim::Constant[value="{activation}"]()
  {POINTWISE}(%x, %w, %b, {PLACES}, %activation, %scalars, %nothing)"""


def replace(graph: Any, pattern: str, replacement: str, extra: str = "") -> None:
    """Rewrite every match of ``pattern``, whose arguments are those of a convolution and ``extra``."""
    before, after = (
        f"graph({ARGUMENTS}{extra}):\n  {body}\n  return (%result)" for body in (pattern, replacement)
    )
    torch._C._jit_pass_custom_pattern_based_rewrite_graph(before, after, graph)


def convolutions(graph: Any) -> list[Any]:
    """The oneDNN convolutions in a graph, in order."""
    return list(graph.findAllNodes("mkldnn::_convolution_pointwise"))


def input_sizes(graph: Any, sample: Sequence[torch.Tensor]) -> list[list[int]]:
    """The input size of each convolution, found by running a copy of the graph that returns these inputs."""
    watched = graph.copy()
    for node in convolutions(watched):
        watched.registerOutput(node.inputsAt(0))
    watched.makeMultiOutputIntoTuple()
    watched.eraseInput(0)  # the module itself, which a frozen graph does not use
    _, *inputs = torch._C._create_function_from_graph("watched", watched)(*sample)
    return [list(each.shape) for each in inputs]


def lay_out_weights(graph: Any, node: Any, position: int, size: list[int]) -> None:
    """Give a convolution weights in oneDNN's layout, and a channels-last output, as the next one expects."""
    weights, padding, stride, dilation, groups = (
        node.inputsAt(position + step).toIValue() for step in (0, 2, 3, 4, 5)
    )
    laid_out = torch.ops.mkldnn._reorder_convolution_weight(
        weights.contiguous(memory_format=torch.channels_last), padding, stride, dilation, groups, size
    )
    constant = graph.create("prim::ConstantMKLDNNTensor", [], 1)
    constant.insertBefore(node)
    constant.t_("value", laid_out)
    node.replaceInput(position, constant.output())
    if size[1] == 1:  # with one channel both layouts are the same, and the output would not be channels last
        layout = graph.insertConstant(2)  # torch.channels_last
        layout.node().moveBefore(node)
        output = graph.create("aten::contiguous", [node.output(), layout], 1)
        output.insertAfter(node)
        node.output().replaceAllUsesWith(output.output())
        output.replaceInput(0, node.output())
