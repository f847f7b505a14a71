"""Makes a loaded TorchScript network quick where it runs: precision, memory layout, weights laid out beforehand.

Half precision is float16 on a GPU, and bfloat16 on a CPU that has instructions for it. It is used where the
network follows its weights' type, as an exported one does, and where its answers to noise stay about the same.

Imported by ``model.py`` from the folder they lie in; needs torch alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Log = Callable[[str], None]

MAX_DIFFERENCE = 0.05
"""How far half precision may move an answer to noise; on FER+ Valid it moves the network's by at most 0.017."""


def prepare(
    load: Callable[[], torch.jit.ScriptModule],
    sample: Sequence[torch.Tensor],
    device: torch.device,
    *,
    half: bool,
    log: Log,
) -> torch.jit.ScriptModule:
    """The network for inference on ``device``, in half precision where that is wanted and goes.

    Args:
        load: a fresh copy of the network, on ``device``, at each call.
        sample: inputs of two rows on ``device`` to compare both precisions on; none: full precision.
        device: where it runs.
        half: whether half precision is wanted.
        log: is told why half precision is not used although wanted.
    """
    full = optimise(load(), device)
    dtype = half_type(device)
    if not (half and dtype and sample):
        return full
    try:
        halved = halve(load(), dtype, sample)
        answers = [as_tuple(network(*sample)) for network in (full, halved)]
        if [each.dtype for each in answers[0]] != [each.dtype for each in answers[1]]:
            raise TypeError("its answers would be of another type")
        difference = max(float((a.float() - b.float()).abs().max()) for a, b in zip(*answers, strict=True))
    except Exception as error:  # whatever a foreign model does not like
        log(f"full precision, because the network cannot run in {dtype}: {last_line(error)[:100]}")
        return full
    if not difference <= MAX_DIFFERENCE:  # nor if it is no number
        log(f"full precision, because {dtype} changes answers by {difference:.2g}")
        return full
    return halved


def half_type(device: torch.device) -> torch.dtype | None:
    """The device's half precision; None where that would be no quicker."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16") else None


def optimise(model: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Fold constants and batch norms and, on a CPU, use oneDNN's layouts: a batch of 32 in 60 % of the time."""
    frozen = freeze(model)
    return torch.jit.optimize_for_inference(frozen) if device.type == "cpu" else frozen


def halve(
    model: torch.jit.ScriptModule, dtype: torch.dtype, sample: Sequence[torch.Tensor]
) -> torch.jit.ScriptModule:
    """The network with weights of ``dtype``, channels last; on a CPU with its convolutions' weights laid out."""
    halved = freeze(model.to(dtype).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    if dtype is torch.bfloat16:
        lay_out_convolutions(halved, sample)
    return halved


def freeze(model: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Frozen, unless the file was already."""
    return torch.jit.freeze(model.eval()) if hasattr(model, "training") else model


def as_tuple(result: Any) -> Sequence[torch.Tensor]:
    """What a network returns, a tensor or several."""
    return (result,) if isinstance(result, torch.Tensor) else result


def last_line(error: Exception) -> str:
    """The last line of TorchScript's errors is the reason, above it stands the source."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


# What a traced convolution is, and oneDNN's operation that TorchInductor uses: it takes weights in the layout that
# its kernel wants, and adds a shortcut and applies ReLU as it writes. A plain one lays its weights out anew in
# each call, which for one face takes as long as the convolutions themselves.
ARGUMENTS = "%x, %w, %b, %stride, %padding, %dilation, %transposed, %out, %groups, %c1, %c2, %c3, %c4"
PLAIN = f"%plain : Tensor = aten::_convolution({ARGUMENTS})"
NOTHING = "%nothing : NoneType = prim::Constant()\n  %scalars : Scalar?[] = prim::ListConstruct()"
POINTWISE = "%result : Tensor = mkldnn::_convolution_pointwise"
PLACES = "%padding, %stride, %dilation, %groups"


def lay_out_convolutions(model: torch.jit.ScriptModule, sample: Sequence[torch.Tensor]) -> None:
    """Replace the convolutions of a frozen network by ones with their weights laid out, in place.

    Args:
        model: frozen, on the CPU.
        sample: inputs; the layout suits pictures of their size, others go too.
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
        position = 1 if node.inputsSize() == 10 else 2  # of the weights: after the shortcut, where there is one
        lay_out_weights(graph, node, position, size)
    torch._C._jit_pass_dce(graph)
    torch._C._jit_pass_lint(graph)


def pointwise(activation: str) -> str:
    """A convolution with an activation, in TorchScript's notation."""
    return f"""{NOTHING}
  %activation : str = prim::Constant[value="{activation}"]()
  {POINTWISE}(%x, %w, %b, {PLACES}, %activation, %scalars, %nothing)"""


def replace(graph: Any, pattern: str, replacement: str, extra: str = "") -> None:
    """Rewrite every ``pattern``, whose arguments are a convolution's and ``extra``."""
    before, after = (
        f"graph({ARGUMENTS}{extra}):\n  {body}\n  return (%result)" for body in (pattern, replacement)
    )
    torch._C._jit_pass_custom_pattern_based_rewrite_graph(before, after, graph)


def convolutions(graph: Any) -> list[Any]:
    """Those of ``lay_out_convolutions``, in their order."""
    return list(graph.findAllNodes("mkldnn::_convolution_pointwise"))


def input_sizes(graph: Any, sample: Sequence[torch.Tensor]) -> list[list[int]]:
    """The size of what each convolution reads, found by running a graph that returns all of it."""
    watched = graph.copy()
    for node in convolutions(watched):
        watched.registerOutput(node.inputsAt(0))
    watched.makeMultiOutputIntoTuple()
    watched.eraseInput(0)  # the module, of which a frozen graph uses nothing
    _, *inputs = torch._C._create_function_from_graph("watched", watched)(*sample)
    return [list(each.shape) for each in inputs]


def lay_out_weights(graph: Any, node: Any, position: int, size: list[int]) -> None:
    """Give a convolution its weights in oneDNN's layout; its output is channels last, as the next one wants it."""
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
    if size[1] == 1:  # of one channel both layouts are the same, and the plain one is what comes out
        layout = graph.insertConstant(2)  # torch.channels_last
        layout.node().moveBefore(node)
        output = graph.create("aten::contiguous", [node.output(), layout], 1)
        output.insertAfter(node)
        node.output().replaceAllUsesWith(output.output())
        output.replaceInput(0, node.output())
