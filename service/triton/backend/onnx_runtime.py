"""Runs ``model.onnx`` with ONNX Runtime on the CPU.

Imported by its bare name from the same folder; needs only onnxruntime and numpy.
"""

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

# From version 1.29 on, Linux builds report each session to Microsoft, under an id of this machine that they keep
# in the user's home, unless this is set before the library is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime  # noqa: TID251 - Triton's process cannot import the service
from numpy.typing import NDArray

MAX_ROWS = 16
"""Maximum rows of a batch. Larger batches take as long per row, and more memory."""

# CPython's functions for capsules, https://docs.python.org/3/c-api/capsule.html. A name must outlive its capsule,
# as a literal does.
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype, capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
rename_capsule = ctypes.pythonapi.PyCapsule_SetName
rename_capsule.restype, rename_capsule.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class OnnxRuntime:
    """A network in ONNX form; see ``model.Runtime``."""

    def __init__(self, content: bytes, parameters: Mapping[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("INTRA_OP_THREAD_COUNT", 0))
        options.inter_op_num_threads = 1
        # Threads sleep between batches instead of spinning on cores that the gateway needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A memory pattern would be kept for each batch size.
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._threads = options.intra_op_num_threads
        self.arguments = [each.name for each in self._session.get_inputs()]
        self._max_rows: float = math.inf

    def prepare(self, inputs: Sequence[tuple[Sequence[int], str]], max_batch_size: int) -> None:
        """Run the smallest and the largest batch, so that memory is allocated once."""
        if max_batch_size:  # without batches there are no rows to split
            self._max_rows = min(MAX_ROWS, max_batch_size)
        for rows in (1, int(self._max_rows)) if inputs else ():
            self.run([[np.zeros([rows, *shape], dtype)] for shape, dtype in inputs])

    def read(self, tensor: Any) -> NDArray[Any]:
        """Return one of Triton's tensors as an array, without a copy."""
        return np.from_dlpack(tensor)

    def export(self, array: NDArray[Any]) -> Any:
        """Return a DLPack capsule that owns the array's memory until Triton has taken it over.

        Triton's stub renames the capsule that it has taken to "used_dlpack". numpy's own capsule expects
        "used_dltensor" and would report an error when it is destroyed, so its pointer moves to a capsule without a
        destructor.
        """
        theirs = array.__dlpack__()
        pointer = capsule_pointer(theirs, b"dltensor")
        rename_capsule(theirs, b"used_dltensor")
        return new_capsule(pointer, b"dltensor", None)

    def run(self, batch: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
        """Return the outputs for a batch, computed in pieces of equal size up to the largest."""
        inputs = [arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for arrays in batch]
        count = math.ceil(len(inputs[0]) / self._max_rows)
        if count <= 1:
            return self._compute(inputs)
        pieces = zip(*(np.array_split(array, count) for array in inputs), strict=True)
        results = [self._compute(piece) for piece in pieces]
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _compute(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._session.run(None, dict(zip(self.arguments, inputs, strict=True)))
        return outputs

    def dtype(self, array: NDArray[Any]) -> str:
        """Return the name of an array's type."""
        return array.dtype.name

    def describe(self) -> str:
        """Name version and threads."""
        return f"ONNX Runtime {onnxruntime.__version__} on the CPU, {self._threads or 'all'} threads"
