"""Triton's `pytorch` backend in Python: serves a TorchScript ``model.pt`` as the C++ libtorch backend does.

Triton takes this file where it finds no ``libtriton_pytorch.so``. The rules of the C++ backend (24.10) hold, so
that one model repository serves both: the same names of inputs and outputs, the same parameters, one forward a
batch.

It runs inside Triton's stub process, which can import torch and Triton's own module and nothing else of ours.

Tensors cross by DLPack both ways. The stub was built before numpy 2, and with it a tensor made from an array
arrives empty, without any error.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from typing import Any

# OpenMP reads it once, when torch is loaded: its threads are to sleep between batches. By default they spin, on
# cores that the gateway needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack

DTYPES = {
    "TYPE_BOOL": torch.bool,
    "TYPE_UINT8": torch.uint8,
    "TYPE_INT8": torch.int8,
    "TYPE_INT16": torch.int16,
    "TYPE_INT32": torch.int32,
    "TYPE_INT64": torch.int64,
    "TYPE_FP16": torch.float16,
    "TYPE_BF16": torch.bfloat16,
    "TYPE_FP32": torch.float32,
    "TYPE_FP64": torch.float64,
}

# TorchScript's profiling executor records a first run and optimises in the second; the third one is steady.
WARM_UP_RUNS = 3

CARD = "model_card.json"


class TritonPythonModel:
    """One instance of a model; Triton calls ``initialize``, ``execute`` for every batch, and ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load, freeze and warm the model; an error here is the reason Triton gives for the model's absence."""
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.max_batch_size: int = config["max_batch_size"]
        self.configure_torch()
        self.device = choose_device(args)
        path = os.path.join(
            args["model_repository"],
            args["model_version"],
            config.get("default_model_filename") or "model.pt",
        )
        # Read once: what is loaded is what was checked.
        content = read_checked(path)
        model = torch.jit.load(io.BytesIO(content), map_location=self.device)  # type: ignore[no-untyped-call]
        arguments = [argument.name for argument in model.forward.schema.arguments[1:]]
        self.inputs = order_inputs([each["name"] for each in config["input"]], arguments)
        self.outputs = index_outputs(config["output"])
        self.model = optimise(model.eval(), self.device)
        # On a GPU every new batch size is optimised anew, which takes longer than hundreds of batches, so that
        # only few sizes may ever occur. On a CPU a new size costs nothing, and padding costs what more rows cost.
        self.pad = self.flag("PAD_BATCHES", default=self.device.type == "cuda")
        self.warm(config["input"])
        pb_utils.Logger.log_info(
            f"{args['model_name']} version {args['model_version']} on {self.device}: inputs {self.inputs}, "
            f"outputs {[name for name, _, _ in self.outputs]}, "
            f"batches {'padded' if self.pad else 'as they come'}, "
            f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch; returns a response for each, in their order.

        What fails, fails for all of them. Each gets an error object of its own: one that is shared is freed twice
        and takes the whole server down.
        """
        try:
            batch = [self.gather(requests, name) for name in self.inputs]
            outputs = self.forward([torch.cat(tensors) for tensors in batch])
        except Exception as error:
            message = f"PyTorch execute failure: {error}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message)) for _ in requests]
        counts = [len(tensor) if self.max_batch_size else 1 for tensor in batch[0]]
        parts = [torch.split(tensor, counts) if self.max_batch_size else [tensor] for tensor in outputs]
        return [self.respond(request, [part[index] for part in parts]) for index, request in enumerate(requests)]

    def finalize(self) -> None:
        """Let go of the model's memory before the stub ends."""
        del self.model

    def configure_torch(self) -> None:
        """Apply the parameters that the C++ backend knows too."""
        if threads := int(self.parameters.get("INTRA_OP_THREAD_COUNT", 0)):
            torch.set_num_threads(threads)
        if threads := int(self.parameters.get("INTER_OP_THREAD_COUNT", 0)):
            torch.set_num_interop_threads(threads)
        torch.backends.cudnn.enabled = not self.flag("DISABLE_CUDNN", default=False)
        self.inference_mode = self.flag("INFERENCE_MODE", default=True)
        self.optimized_execution = not self.flag("DISABLE_OPTIMIZED_EXECUTION", default=False)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read a parameter as the C++ backend does: true or 1, false or 0."""
        return self.parameters.get(name, str(default)).strip().lower() in ("true", "1")

    def gather(self, requests: Sequence[Any], name: str) -> list[torch.Tensor]:
        """Every request's input ``name``, without a copy."""
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for request in requests]
        return [from_dlpack(tensor.to_dlpack()) for tensor in tensors]

    def forward(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The configured outputs in their order, on the CPU, for a batch of any size."""
        rows = len(inputs[0])
        if self.pad:
            inputs = [pad(tensor, batch_size(rows, self.max_batch_size)) for tensor in inputs]
        with (
            torch.inference_mode(self.inference_mode),
            torch.no_grad(),
            torch.jit.optimized_execution(self.optimized_execution),  # type: ignore[attr-defined]
        ):
            result = self.model(*[tensor.to(self.device) for tensor in inputs])
            results = (result,) if isinstance(result, torch.Tensor) else result
            outputs = []
            for name, index, dtype in self.outputs:
                if index >= len(results):
                    raise ValueError(f"output {name} is not among the {len(results)} that the model returns")
                if results[index].dtype != dtype:
                    raise ValueError(
                        f"output {name} is configured as {dtype}, the model returns {results[index].dtype}"
                    )
                tensor = results[index].detach()
                outputs.append((tensor[:rows] if self.pad else tensor).cpu().contiguous())
        return outputs

    def respond(self, request: Any, tensors: list[torch.Tensor]) -> Any:
        """One request's response, with the outputs that it asked for."""
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, tensor)
                for (name, _, _), tensor in zip(self.outputs, tensors, strict=True)
                if name in wanted
            ]
        )

    def warm(self, inputs: list[dict[str, Any]]) -> None:
        """Run the batch sizes that will occur (on a CPU: one face and several), so that no caller waits for it.

        It also finds a model that does not fit its configuration before traffic does.
        """
        shapes = [[int(size) for size in each["dims"]] for each in inputs]
        if not self.max_batch_size or any(size < 0 for shape in shapes for size in shape):
            return
        sizes = batch_sizes(self.max_batch_size)
        by_name = {each["name"]: each for each in inputs}
        for size in sizes if self.pad else sizes[:2]:
            batch = [
                torch.zeros(
                    [size, *(int(each) for each in by_name[name]["dims"])],
                    dtype=DTYPES[by_name[name]["data_type"]],
                )
                for name in self.inputs
            ]
            for _ in range(WARM_UP_RUNS):
                self.forward(batch)


def read_checked(path: str) -> bytes:
    """The model file, which must have the checksum that its version's model card states, where there is one.

    TorchScript is code: what was cut off, mixed up or replaced on its way here must not run.
    """
    with open(path, "rb") as file:
        content = file.read()
    card = os.path.join(os.path.dirname(path), CARD)
    if not os.path.exists(card):
        pb_utils.Logger.log_warn(f"{path} is loaded unchecked: there is no {CARD} beside it")
        return content
    with open(card, "rb") as file:
        stated = json.load(file)["export"]["sha256"]
    found = hashlib.sha256(content).hexdigest()
    if found != stated:
        raise pb_utils.TritonModelException(f"{path} has sha256 {found}; {CARD} states {stated}")
    return content


def choose_device(args: dict[str, str]) -> torch.device:
    """Where Triton placed the instance; the CPU where this torch cannot use the GPU that Triton sees."""
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pb_utils.Logger.log_warn(f"torch {torch.__version__} cannot use the GPU: serving on the CPU")
        return torch.device("cpu")
    return torch.device("cuda", int(args["model_instance_device_id"]))


def optimise(model: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Fold constants and batch norms and, on a CPU, use oneDNN's layouts: a batch of 32 in 60 % of the time."""
    frozen = torch.jit.freeze(model) if hasattr(model, "training") else model  # export may have frozen it
    if device.type == "cpu":
        return torch.jit.optimize_for_inference(frozen)
    return frozen


def order_inputs(names: list[str], arguments: list[str]) -> list[str]:
    """The configured input names in the order of ``forward``'s arguments.

    An input is found by its argument's name; else all are ``<name>__<index>``; else they are in order.
    """
    if len(names) != len(arguments):
        raise pb_utils.TritonModelException(
            f"the configuration has {len(names)} inputs, the model's forward takes {len(arguments)}"
        )
    if set(names) == set(arguments):
        return arguments
    positions = name_indices(names) or list(range(len(names)))
    if sorted(positions) != list(range(len(names))):
        raise pb_utils.TritonModelException(f"the inputs' indices {positions} are not 0 to {len(names) - 1}")
    return [name for _, name in sorted(zip(positions, names, strict=True))]


def index_outputs(outputs: list[dict[str, Any]]) -> list[tuple[str, int, torch.dtype]]:
    """Name, index in what ``forward`` returns, and type of each configured output."""
    positions = name_indices([each["name"] for each in outputs]) or list(range(len(outputs)))
    return [
        (each["name"], position, DTYPES[each["data_type"]])
        for each, position in zip(outputs, positions, strict=True)
    ]


def name_indices(names: list[str]) -> list[int] | None:
    """The indices in names that all have the form ``<name>__<index>``, else None."""
    indices = [name.rpartition("__")[2] for name in names if "__" in name]
    if len(indices) == len(names) and all(index.isdigit() for index in indices):
        return [int(index) for index in indices]
    return None


def batch_sizes(largest: int) -> list[int]:
    """Powers of two up to ``largest``, and ``largest``."""
    sizes = [1 << exponent for exponent in range(largest.bit_length()) if 1 << exponent < largest]
    return [*sizes, largest]


def batch_size(rows: int, largest: int) -> int:
    """The smallest size of ``batch_sizes`` that holds ``rows``."""
    return next(size for size in batch_sizes(largest) if size >= rows)


def pad(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """``tensor`` with rows of zeros up to ``rows``; the network treats each row by itself."""
    return torch.cat([tensor, tensor.new_zeros((rows - len(tensor), *tensor.shape[1:]))])
