"""Triton's `pytorch` backend in Python: serves a TorchScript ``model.pt`` like the C++ libtorch backend.

Triton uses this file if there is no ``libtriton_pytorch.so``. It follows the rules of the C++ backend (24.10) for
the names of inputs and outputs and for parameters, and calls ``forward`` once per batch, so that both serve the
same model repository.

It runs inside Triton's stub process, which can import torch, Triton's own module and the modules in this folder,
but nothing else of the service.

Tensors are passed as DLPack in both directions: the stub was built before numpy 2, and tensors made from numpy 2
arrays arrive empty without any error.
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

# Make OpenMP's threads sleep between batches: by default they spin on cores that the gateway needs. OpenMP reads
# the variable once, when torch is loaded.
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
"""Maximum rows of a batch on a CPU. Larger batches are at most 5 % faster, and oneDNN caches about 3 MB for each
batch size that occurs, so that memory would grow until all sizes have occurred."""


class TritonPythonModel:
    """An instance of a model. Triton calls ``initialize``, then ``execute`` for every batch, then ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load, optimize and warm up the model. Triton reports an error here as the reason why loading failed."""
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.max_batch_size: int = config["max_batch_size"]
        self.configure_torch()
        self.device = choose_device(args)
        limited = self.max_batch_size and self.device.type == "cpu"  # without batching there are no rows
        self.max_rows = MAX_CPU_BATCH if limited else math.inf
        path = os.path.join(
            args["model_repository"],
            args["model_version"],
            config.get("default_model_filename") or "model.pt",
        )
        # Read the file once, so that the bytes that are loaded are those that were verified.
        content = read_verified(path)
        schema = self.load(content).forward.schema  # type: ignore[attr-defined]
        arguments = [argument.name for argument in schema.arguments[1:]]
        self.inputs = order_inputs([each["name"] for each in config["input"]], arguments)
        self.outputs = index_outputs(config["output"])
        shapes = {
            each["name"]: ([int(size) for size in each["dims"]], DTYPES[each["data_type"]])
            for each in config["input"]
        }
        # Shapes for warming up; none if a size is variable.
        self.rows = [shapes[name] for name in self.inputs]
        if not self.max_batch_size or any(size < 0 for shape, _ in self.rows for size in shape):
            self.rows = []
        with self.mode():
            self.model = prepare(
                lambda: self.load(content),
                [noise(shape, dtype).to(self.device) for shape, dtype in self.rows],
                self.device,
                # The C++ backend does not know this parameter and uses the precision in the file.
                half=self.flag("HALF_PRECISION", default=True),
                log=pb_utils.Logger.log_warn,
            )
            # On a GPU the network is optimized again for every new batch size, which takes longer than hundreds of
            # batches, so only a few sizes are used. On a CPU new sizes cost nothing, but padding does.
            fixed = self.flag("PAD_BATCHES", default=self.device.type == "cuda") and bool(self.rows)
            self.batches = self.fix_batches() if fixed else None
            if not fixed:
                self.warm_up()
        trim_memory()
        pb_utils.Logger.log_info(
            f"{args['model_name']} version {args['model_version']} on {self.device}: inputs {self.inputs}, "
            f"outputs {[name for name, _, _ in self.outputs]}, "
            f"batches {f'padded to {self.batches.sizes}' if self.batches else 'not padded'}, "
            f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch; returns a response for each, in the same order.

        A failure fails all of them. Each response needs its own error object: Triton frees a shared one twice and
        crashes.
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
        """Free the model's memory before the stub exits."""
        del self.model, self.batches

    def load(self, content: bytes) -> torch.jit.ScriptModule:
        """Load a new copy of the model onto its device."""
        return torch.jit.load(io.BytesIO(content), map_location=self.device)  # type: ignore[no-any-return, no-untyped-call]

    def configure_torch(self) -> None:
        """Apply the parameters that the C++ backend supports, too."""
        if threads := int(self.parameters.get("INTRA_OP_THREAD_COUNT", 0)):
            torch.set_num_threads(threads)
        if threads := int(self.parameters.get("INTER_OP_THREAD_COUNT", 0)):
            torch.set_num_interop_threads(threads)
        torch.backends.cudnn.enabled = not self.flag("DISABLE_CUDNN", default=False)
        self.inference_mode = self.flag("INFERENCE_MODE", default=True)
        self.optimized_execution = not self.flag("DISABLE_OPTIMIZED_EXECUTION", default=False)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read a Boolean parameter like the C++ backend: "true" or "1" is true, anything else is false."""
        return self.parameters.get(name, str(default)).strip().lower() in ("true", "1")

    def gather(self, requests: Sequence[Any], name: str) -> list[torch.Tensor]:
        """The input ``name`` of every request, without copying."""
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for request in requests]
        return [from_dlpack(tensor.to_dlpack()) for tensor in tensors]

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """Run the network as the parameters say: inference mode, optimized execution."""
        with (
            torch.inference_mode(self.inference_mode),
            torch.no_grad(),
            torch.jit.optimized_execution(self.optimized_execution),  # type: ignore[attr-defined]
        ):
            yield

    def forward(self, batch: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        """Run the network on each input's tensors, one per request; returns the configured outputs on the CPU."""
        with self.mode():
            if self.batches:
                results = self.batches(batch)
            else:
                inputs = [torch.cat(tensors).to(self.device) for tensors in batch]
                results = in_pieces(self.model, inputs, self.max_rows)
            outputs = []
            for name, index, dtype in self.outputs:
                if index >= len(results):
                    raise ValueError(f"output {name} has index {index}, but the model returns only {len(results)}")
                if results[index].dtype != dtype:
                    raise ValueError(
                        f"output {name} is configured as {dtype}, but the model returns {results[index].dtype}"
                    )
                outputs.append(results[index].detach().cpu().contiguous())
        return outputs

    def respond(self, request: Any, tensors: list[torch.Tensor]) -> Any:
        """A response with the outputs that the request asked for."""
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, tensor)
                for (name, _, _), tensor in zip(self.outputs, tensors, strict=True)
                if name in wanted
            ]
        )

    def fix_batches(self) -> FixedBatches:
        """Prepare all batch sizes: warm up and, on a GPU, record CUDA graphs."""
        return FixedBatches(self.model, self.rows, self.max_batch_size, self.device, log=pb_utils.Logger.log_warn)

    def warm_up(self) -> None:
        """Run every batch size that a CPU gets, so that no request waits for torch's slow first runs.

        On a GPU, where optimizing a size takes long, run one and two rows. This also detects models that do not
        match their configuration before the first request does.
        """
        largest = MAX_CPU_BATCH if self.device.type == "cpu" else 2
        for rows in range(1, min(largest, self.max_batch_size) + 1) if self.rows else ():
            for _ in range(WARM_UP_RUNS if rows <= 2 else 1):
                self.forward([[torch.zeros([rows, *shape], dtype=dtype)] for shape, dtype in self.rows])


def noise(shape: Sequence[int], dtype: torch.dtype, rows: int = 2) -> torch.Tensor:
    """Random numbers [rows, *shape] with a fixed seed: 0 to 1 for floating point, else the type's bytes."""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.rand([rows, *shape], generator=generator).to(dtype)
    return torch.randint(0, 128 if dtype is torch.int8 else 256, [rows, *shape], generator=generator).to(dtype)


def trim_memory() -> None:
    """Return freed memory to the kernel: after preparing the model, glibc keeps 80 MB of 410 MB otherwise."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def read_verified(path: str) -> bytes:
    """Read the model file and verify it against the checksum in the version's model card, if there is one.

    TorchScript is code: a truncated, mixed up or replaced file must not run.
    """
    with open(path, "rb") as file:
        content = file.read()
    card = os.path.join(os.path.dirname(path), CARD)
    if not os.path.exists(card):
        pb_utils.Logger.log_warn(f"{path} is not verified: there is no {CARD} in its folder")
        return content
    with open(card, "rb") as file:
        stated = json.load(file)["export"]["sha256"]
    found = hashlib.sha256(content).hexdigest()
    if found != stated:
        raise pb_utils.TritonModelException(f"{path} has SHA-256 {found}, but {CARD} says {stated}")
    return content


def choose_device(args: dict[str, str]) -> torch.device:
    """The device that Triton chose, or the CPU if torch cannot use the GPU that Triton sees."""
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pb_utils.Logger.log_warn(f"torch {torch.__version__} cannot use the GPU; using the CPU")
        return torch.device("cpu")
    return torch.device("cuda", int(args["model_instance_device_id"]))


def order_inputs(names: list[str], arguments: list[str]) -> list[str]:
    """Sort the configured input names by the order of ``forward``'s arguments.

    The names are those of the arguments, or all have the form ``<name>__<index>``, or they are in order already.
    """
    if len(names) != len(arguments):
        raise pb_utils.TritonModelException(
            f"the configuration has {len(names)} inputs, but the model's forward takes {len(arguments)}"
        )
    if set(names) == set(arguments):
        return arguments
    positions = name_indices(names) or list(range(len(names)))
    if sorted(positions) != list(range(len(names))):
        raise pb_utils.TritonModelException(
            f"the indices of the inputs are {positions}, not 0 to {len(names) - 1}"
        )
    return [name for _, name in sorted(zip(positions, names, strict=True))]


def index_outputs(outputs: list[dict[str, Any]]) -> list[tuple[str, int, torch.dtype]]:
    """Name, index in the result of ``forward``, and data type of each configured output."""
    positions = name_indices([each["name"] for each in outputs]) or list(range(len(outputs)))
    return [
        (each["name"], position, DTYPES[each["data_type"]])
        for each, position in zip(outputs, positions, strict=True)
    ]


def name_indices(names: list[str]) -> list[int] | None:
    """The indices if all names have the form ``<name>__<index>``, else None."""
    indices = [name.rpartition("__")[2] for name in names if "__" in name]
    if len(indices) == len(names) and all(index.isdigit() for index in indices):
        return [int(index) for index in indices]
    return None
