"""Triton's `pytorch` backend in Python: serves a TorchScript ``model.pt`` as the C++ libtorch backend does.

Triton takes this file where it finds no ``libtriton_pytorch.so``. The rules of the C++ backend (24.10) hold, so
that one model repository serves both: the same names of inputs and outputs, the same parameters, one forward a
batch.

It runs inside Triton's stub process, which can import torch, Triton's own module, and what lies beside this file:
``optimize`` and ``fixed_batches``, nothing else of ours.

Tensors cross by DLPack both ways. The stub was built before numpy 2, and with it a tensor made from an array
arrives empty, without any error.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

# OpenMP reads it once, when torch is loaded: its threads are to sleep between batches. By default they spin, on
# cores that the gateway needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import triton_python_backend_utils as pb_utils
from fixed_batches import WARM_UP_RUNS, FixedBatches, in_pieces  # type: ignore[import-not-found]
from optimize import prepare  # type: ignore[import-not-found]
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

CARD = "model_card.json"

MAX_CPU_BATCH = 16
"""Rows that a CPU works on at once. More are a twentieth quicker at best, and for every size that occurs oneDNN
keeps some 3 MB of what it has prepared: memory would grow until all of them have."""


class TritonPythonModel:
    """One instance of a model; Triton calls ``initialize``, ``execute`` for every batch, and ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load, freeze and warm the model; an error here is the reason Triton gives for the model's absence."""
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.max_batch_size: int = config["max_batch_size"]
        self.configure_torch()
        self.device = choose_device(args)
        in_part = self.max_batch_size and self.device.type == "cpu"  # what has no batches has no rows either
        self.most_rows = MAX_CPU_BATCH if in_part else math.inf
        path = os.path.join(
            args["model_repository"],
            args["model_version"],
            config.get("default_model_filename") or "model.pt",
        )
        # Read once: what is loaded is what was checked.
        content = read_checked(path)
        schema = self.load(content).forward.schema  # type: ignore[attr-defined]
        arguments = [argument.name for argument in schema.arguments[1:]]
        self.inputs = order_inputs([each["name"] for each in config["input"]], arguments)
        self.outputs = index_outputs(config["output"])
        shapes = {
            each["name"]: ([int(size) for size in each["dims"]], DTYPES[each["data_type"]])
            for each in config["input"]
        }
        # What to warm with: nothing where a size is left open.
        self.rows = [shapes[name] for name in self.inputs]
        if not self.max_batch_size or any(size < 0 for shape, _ in self.rows for size in shape):
            self.rows = []
        with self.mode():
            self.model = prepare(
                lambda: self.load(content),
                [noise(shape, dtype).to(self.device) for shape, dtype in self.rows],
                self.device,
                # C++ serves what the file says; it does not know this parameter.
                half=self.flag("HALF_PRECISION", default=True),
                log=pb_utils.Logger.log_warn,
            )
            # On a GPU every new batch size is optimised anew, which takes longer than hundreds of batches, so that
            # only few sizes may ever occur. On a CPU a new size costs nothing, and padding costs what more rows
            # cost.
            fixed = self.flag("PAD_BATCHES", default=self.device.type == "cuda") and bool(self.rows)
            self.batches = self.fix_batches() if fixed else None
            if not fixed:
                self.warm()
        trim_memory()
        pb_utils.Logger.log_info(
            f"{args['model_name']} version {args['model_version']} on {self.device}: inputs {self.inputs}, "
            f"outputs {[name for name, _, _ in self.outputs]}, "
            f"batches {f'padded to {self.batches.sizes}' if self.batches else 'as they come'}, "
            f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch; returns a response for each, in their order.

        What fails, fails for all of them. Each gets an error object of its own: one that is shared is freed twice
        and takes the whole server down.
        """
        try:
            batch = [self.gather(requests, name) for name in self.inputs]
            outputs = self.forward(batch)
        except Exception as error:
            message = f"PyTorch execute failure: {error}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message)) for _ in requests]
        counts = [len(tensor) if self.max_batch_size else 1 for tensor in batch[0]]
        parts = [torch.split(tensor, counts) if self.max_batch_size else [tensor] for tensor in outputs]
        return [self.respond(request, [part[index] for part in parts]) for index, request in enumerate(requests)]

    def finalize(self) -> None:
        """Let go of the model's memory before the stub ends."""
        del self.model, self.batches

    def load(self, content: bytes) -> torch.jit.ScriptModule:
        """A copy of the model, on its device."""
        return torch.jit.load(io.BytesIO(content), map_location=self.device)  # type: ignore[no-any-return, no-untyped-call]

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

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """How the network runs, by the parameters."""
        with (
            torch.inference_mode(self.inference_mode),
            torch.no_grad(),
            torch.jit.optimized_execution(self.optimized_execution),  # type: ignore[attr-defined]
        ):
            yield

    def forward(self, batch: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        """The configured outputs in their order, on the CPU, for the requests' tensors of each input."""
        with self.mode():
            if self.batches:
                results = self.batches(batch)
            else:
                inputs = [torch.cat(tensors).to(self.device) for tensors in batch]
                results = in_pieces(self.model, inputs, self.most_rows)
            outputs = []
            for name, index, dtype in self.outputs:
                if index >= len(results):
                    raise ValueError(f"output {name} is not among the {len(results)} that the model returns")
                if results[index].dtype != dtype:
                    raise ValueError(
                        f"output {name} is configured as {dtype}, the model returns {results[index].dtype}"
                    )
                outputs.append(results[index].detach().cpu().contiguous())
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

    def fix_batches(self) -> FixedBatches:
        """Every batch size that can occur, warmed and, on a GPU, recorded."""
        return FixedBatches(self.model, self.rows, self.max_batch_size, self.device, log=pb_utils.Logger.log_warn)

    def warm(self) -> None:
        """Run every size that a CPU gets, so that no caller waits for what torch does in its first runs.

        On a GPU, where a size takes long to be optimised, one row and two. It also finds a model that does not fit
        its configuration before traffic does.
        """
        largest = MAX_CPU_BATCH if self.device.type == "cpu" else 2
        for rows in range(1, min(largest, self.max_batch_size) + 1) if self.rows else ():
            for _ in range(WARM_UP_RUNS if rows <= 2 else 1):
                self.forward([[torch.zeros([rows, *shape], dtype=dtype)] for shape, dtype in self.rows])


def noise(shape: Sequence[int], dtype: torch.dtype, rows: int = 2) -> torch.Tensor:
    """Rows of random numbers, of a fixed seed: bytes, or from 0 to 1 where the type has fractions."""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.rand([rows, *shape], generator=generator).to(dtype)
    return torch.randint(0, 128 if dtype is torch.int8 else 256, [rows, *shape], generator=generator).to(dtype)


def trim_memory() -> None:
    """Hand back what preparing the model took and freed: 80 MB of 410, which glibc would keep."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


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
