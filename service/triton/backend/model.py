"""Triton's `pytorch` backend in Python, for versions with ``model.pt`` and ``model.onnx`` of the same weights.

Triton uses this file if there is no ``libtriton_pytorch.so``. It follows the rules of the C++ backend (24.10),
so that both can serve the same model repository: the same names of inputs and outputs, the same parameters, one
forward pass for each batch.

On a CPU it runs ``model.onnx`` with ONNX Runtime and needs no torch. On a GPU, if there is no ``model.onnx``, or
if ``TANDEM_RUNTIME`` asks for it, it runs ``model.pt`` with TorchScript.

It runs inside Triton's stub process, which can import the installed packages, Triton's own module and the files
beside this one, but nothing else of the service.

Tensors are passed as DLPack in both directions: the stub was built before numpy 2, and tensors made from numpy 2
arrays arrive empty without any error.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils

CARD = "model_card.json"
ONNX_FILE = "model.onnx"
RUNTIME_VARIABLE = "TANDEM_RUNTIME"
RUNTIMES = ("auto", "onnx", "torchscript")

DTYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_INT8": "int8",
    "TYPE_INT16": "int16",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_BF16": "bfloat16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
}
"""Triton's types and the names that both numpy and torch have for them."""


class Runtime(Protocol):
    """A loaded network. Arrays are numpy arrays or torch tensors on the CPU, whichever the runtime uses."""

    arguments: list[str]
    """Names of the network's inputs, in order."""

    def prepare(self, inputs: Sequence[tuple[Sequence[int], str]], max_batch_size: int) -> None:
        """Warm up. ``inputs`` has shape of one row and dtype of each input; it is empty if a size is left open."""

    def read(self, tensor: Any) -> Any:
        """Return one of Triton's tensors as an array, without a copy."""

    def export(self, array: Any) -> Any:
        """Return what Triton can take an array from by DLPack, without a copy."""

    def run(self, batch: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Return the outputs for a batch: for each input the arrays [rows, ...] of all requests."""

    def dtype(self, array: Any) -> str:
        """Return the name of an array's type, such as ``float32``."""

    def describe(self) -> str:
        """Name the runtime, its version, device and threads, for the log."""


class TritonPythonModel:
    """One instance of a model; Triton calls ``initialize``, ``execute`` for every batch, and ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and warm up the model. Triton reports an error here as the reason why loading failed."""
        started = time.perf_counter()
        config = json.loads(args["model_config"])
        self.max_batch_size: int = config["max_batch_size"]
        folder = os.path.join(args["model_repository"], args["model_version"])
        torchscript = os.path.join(folder, config.get("default_model_filename") or "model.pt")
        onnx = os.path.join(folder, ONNX_FILE)
        name, reason = choose_runtime(
            os.environ.get(RUNTIME_VARIABLE) or "auto",
            on_gpu=args["model_instance_kind"] == "GPU" and gpu_works(),
            has_onnx=os.path.exists(onnx),
            has_torchscript=os.path.exists(torchscript),
        )
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.runtime: Runtime
        if name == "onnx":
            from onnx_runtime import OnnxRuntime  # type: ignore[import-not-found]  # noqa: PLC0415

            self.runtime = OnnxRuntime(read_checked(onnx, "onnx_sha256"), parameters)
        else:
            require("torch", "torchscript")
            from torchscript_runtime import TorchScriptRuntime  # type: ignore[import-not-found]  # noqa: PLC0415

            self.runtime = TorchScriptRuntime(
                read_checked(torchscript, "sha256"),
                parameters,
                gpu=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None,
                log=pb_utils.Logger.log_warn,
            )
        self.inputs = order_inputs([each["name"] for each in config["input"]], self.runtime.arguments)
        self.outputs = index_outputs(config["output"])
        shapes = {
            each["name"]: ([int(size) for size in each["dims"]], DTYPES[each["data_type"]])
            for each in config["input"]
        }
        rows = [shapes[name] for name in self.inputs]
        fixed = self.max_batch_size and all(size > 0 for shape, _ in rows for size in shape)
        self.runtime.prepare(rows if fixed else [], self.max_batch_size)
        trim_memory()
        # A warning, because the local Triton does not log at level info, which fills a screen with tables.
        pb_utils.Logger.log_warn(
            f"{args['model_name']} version {args['model_version']} runs with {self.runtime.describe()}, because: "
            f"{reason}; ready after {time.perf_counter() - started:.2f} s"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch; returns a response for each, in their order.

        A failure fails all of them. Each response needs its own error object: Triton frees a shared one twice and
        crashes.
        """
        try:
            batch = [
                [self.runtime.read(pb_utils.get_input_tensor_by_name(request, name)) for request in requests]
                for name in self.inputs
            ]
            outputs = self.check_outputs(self.runtime.run(batch))
        except Exception as error:
            message = f"PyTorch execute failure: {error}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message)) for _ in requests]
        if not self.max_batch_size:
            return [self.respond(requests[0], outputs)]
        responses, start = [], 0
        for request, array in zip(requests, batch[0], strict=True):
            rows = slice(start, start + len(array))
            responses.append(self.respond(request, [output[rows] for output in outputs]))
            start = rows.stop
        return responses

    def finalize(self) -> None:
        """Release the model's memory before the stub ends."""
        del self.runtime

    def check_outputs(self, results: Sequence[Any]) -> list[Any]:
        """Return the configured outputs in their order.

        Raises:
            ValueError: the network returns too few, or one of another type.
        """
        outputs = []
        for name, index, dtype in self.outputs:
            if index >= len(results):
                raise ValueError(f"output {name} is not among the {len(results)} that the model returns")
            found = self.runtime.dtype(results[index])
            if found != dtype:
                raise ValueError(f"output {name} is configured as {dtype}, but the model returns {found}")
            outputs.append(results[index])
        return outputs

    def respond(self, request: Any, arrays: list[Any]) -> Any:
        """Build one request's response, with the outputs that it asked for."""
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, self.runtime.export(array))
                for (name, _, _), array in zip(self.outputs, arrays, strict=True)
                if name in wanted
            ]
        )


def choose_runtime(wanted: str, *, on_gpu: bool, has_onnx: bool, has_torchscript: bool) -> tuple[str, str]:
    """Return ``onnx`` or ``torchscript``, and why.

    Raises:
        TritonModelException: ``wanted`` is unknown, or asks for a file that is missing.
    """
    if wanted not in RUNTIMES:
        raise pb_utils.TritonModelException(
            f"{RUNTIME_VARIABLE} is {wanted!r}; it must be one of {', '.join(RUNTIMES)}"
        )
    if wanted == "onnx" and not has_onnx:
        raise pb_utils.TritonModelException(
            f"{RUNTIME_VARIABLE} is onnx, and the version has no {ONNX_FILE}; `training export` writes it"
        )
    if wanted == "torchscript" and not has_torchscript:
        raise pb_utils.TritonModelException(
            f"{RUNTIME_VARIABLE} is torchscript, and the version has no model.pt, which wheels leave out; "
            "set TANDEM_MODEL_REPOSITORY to the model_repository of the source code"
        )
    if wanted != "auto":
        return wanted, f"{RUNTIME_VARIABLE}={wanted}"
    if on_gpu and not has_torchscript and has_onnx:
        return "onnx", "there is a GPU, but the version has no model.pt, so it runs on the CPU"
    if on_gpu:
        return "torchscript", "on a GPU"
    if has_onnx:
        return "onnx", "on a CPU"
    return "torchscript", f"the version has no {ONNX_FILE}"


def gpu_works() -> bool:
    """Return whether torch is installed and can use the GPU that Triton sees."""
    if importlib.util.find_spec("torch") is None:
        pb_utils.Logger.log_warn("there is a GPU but no torch: pip install 'tandem-emotions[torchscript]'")
        return False
    import torch  # noqa: PLC0415 - takes seconds, and a CPU does not need it

    if not torch.cuda.is_available():
        pb_utils.Logger.log_warn(f"torch {torch.__version__} cannot use the GPU")
        return False
    return True


def require(module: str, extra: str) -> None:
    """Raise an error that says what to install if a module is missing."""
    if importlib.util.find_spec(module) is None:
        raise pb_utils.TritonModelException(f"{module} is not installed: pip install 'tandem-emotions[{extra}]'")


def read_checked(path: str, key: str) -> bytes:
    """Read a model file, which must have the checksum that the model card in its folder states under ``key``.

    TorchScript is code: a truncated, mixed up or replaced file must not run.
    """
    with open(path, "rb") as file:
        content = file.read()
    card = os.path.join(os.path.dirname(path), CARD)
    if not os.path.exists(card):
        pb_utils.Logger.log_warn(f"{path} is not verified: there is no {CARD} in its folder")
        return content
    with open(card, "rb") as file:
        expected = json.load(file)["export"].get(key)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise pb_utils.TritonModelException(f"{path} has SHA-256 {found}, but {CARD} says {expected}")
    return content


def trim_memory() -> None:
    """Return what preparing the model allocated and freed, 80 MB of 410 with torch, which glibc would keep."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def order_inputs(names: list[str], arguments: list[str]) -> list[str]:
    """Return the configured input names in the order of the network's arguments.

    An input is matched by its argument's name; otherwise all are named ``<name>__<index>``; otherwise they are in
    order.
    """
    if len(names) != len(arguments):
        raise pb_utils.TritonModelException(
            f"the configuration has {len(names)} inputs, but the model takes {len(arguments)}"
        )
    if set(names) == set(arguments):
        return arguments
    positions = name_indices(names) or list(range(len(names)))
    if sorted(positions) != list(range(len(names))):
        raise pb_utils.TritonModelException(
            f"the indices of the inputs are {positions}, not 0 to {len(names) - 1}"
        )
    return [name for _, name in sorted(zip(positions, names, strict=True))]


def index_outputs(outputs: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """Return name, index in what the network returns, and dtype of each configured output."""
    positions = name_indices([each["name"] for each in outputs]) or list(range(len(outputs)))
    return [
        (each["name"], position, DTYPES[each["data_type"]])
        for each, position in zip(outputs, positions, strict=True)
    ]


def name_indices(names: list[str]) -> list[int] | None:
    """Return the indices in names that all have the form ``<name>__<index>``, otherwise None."""
    indices = [name.rpartition("__")[2] for name in names if "__" in name]
    if len(indices) == len(names) and all(index.isdigit() for index in indices):
        return [int(index) for index in indices]
    return None
