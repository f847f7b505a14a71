"""Runs ``model.pt`` with TorchScript, on a GPU or on the CPU.

Imported by its bare name from the same folder; needs only torch and ``fixed_batches``.
"""

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# OpenMP reads this once, when torch is loaded: its threads sleep between batches instead of spinning on cores that
# the gateway needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from fixed_batches import WARM_UP_RUNS, FixedBatches, as_sequence, in_pieces  # type: ignore[import-not-found]
from torch.utils.dlpack import from_dlpack

Log = Callable[[str], None]

MAX_CPU_BATCH = 16
"""Maximum rows of a batch on a CPU. Larger batches are at most 5 % faster, and oneDNN caches about 3 MB for each
batch size that occurs, so that memory would grow until every size has occurred."""

MAX_DIFFERENCE = 0.05
"""Maximum change of a probability by half precision, on noise."""


class TorchScriptRuntime:
    """A TorchScript network; see ``model.Runtime``. It knows the parameters of the C++ backend, and two more.

    ``HALF_PRECISION`` (default true) computes in float16 on a GPU. ``PAD_BATCHES`` (default true on a GPU) pads
    batches to a few fixed sizes.
    """

    def __init__(self, content: bytes, parameters: Mapping[str, str], *, gpu: int | None, log: Log) -> None:
        self._content = content
        self._parameters = parameters
        self._log = log
        self._device = torch.device("cpu")
        if gpu is not None and torch.cuda.is_available():
            self._device = torch.device("cuda", gpu)
        if threads := int(parameters.get("INTRA_OP_THREAD_COUNT", 0)):
            torch.set_num_threads(threads)
        if threads := int(parameters.get("INTER_OP_THREAD_COUNT", 0)):
            torch.set_num_interop_threads(threads)
        torch.backends.cudnn.enabled = not self._flag("DISABLE_CUDNN", default=False)
        self._network = self._load()
        schema = self._network.forward.schema  # type: ignore[attr-defined]
        self.arguments = [argument.name for argument in schema.arguments[1:]]
        self._max_rows: float = math.inf
        self._batches: FixedBatches | None = None

    def prepare(self, inputs: Sequence[tuple[Sequence[int], str]], max_batch_size: int) -> None:
        """Freeze and optimize the network, and run every batch size that can occur.

        On a GPU each new size is optimized again, which takes longer than hundreds of batches, so only a few sizes
        may occur. On a CPU a new size costs little, and padding costs as much as more rows.
        """
        rows = [(shape, getattr(torch, dtype)) for shape, dtype in inputs]
        on_cpu = self._device.type == "cpu"
        if max_batch_size and on_cpu:  # without batches there are no rows to split
            self._max_rows = MAX_CPU_BATCH
        with self._mode():
            self._network = self._optimize([noise(shape, dtype).to(self._device) for shape, dtype in rows])
            if rows and self._flag("PAD_BATCHES", default=not on_cpu):
                self._batches = FixedBatches(self._network, rows, max_batch_size, self._device, log=self._log)
                return
        largest = min(MAX_CPU_BATCH if on_cpu else 2, max_batch_size)
        for size in range(1, largest + 1) if rows else ():
            for _ in range(WARM_UP_RUNS if size <= 2 else 1):
                self.run([[torch.zeros([size, *shape], dtype=dtype)] for shape, dtype in rows])

    def read(self, tensor: Any) -> torch.Tensor:
        """Return one of Triton's tensors as a torch tensor, without a copy."""
        return from_dlpack(tensor.to_dlpack())

    def export(self, array: torch.Tensor) -> torch.Tensor:
        """Return the tensor itself, which Triton takes as it is."""
        return array

    def run(self, batch: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """Return the outputs for a batch, on the CPU."""
        with self._mode():
            if self._batches:
                return list(self._batches(batch))
            inputs = [torch.cat(list(tensors)).to(self._device) for tensors in batch]
            results = in_pieces(self._network, inputs, self._max_rows)
            return [result.detach().cpu().contiguous() for result in results]

    def dtype(self, array: torch.Tensor) -> str:
        """Return the name of a tensor's type."""
        return str(array.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """Name version, device, threads and batch sizes."""
        sizes = f"padded to {self._batches.sizes}" if self._batches else "of any size"
        return (
            f"TorchScript, torch {torch.__version__} on {self._device}, {torch.get_num_threads()} threads, "
            f"batches {sizes}"
        )

    def _flag(self, name: str, *, default: bool) -> bool:
        """Read a parameter as the C++ backend does: true or 1, false or 0."""
        return self._parameters.get(name, str(default)).strip().lower() in ("true", "1")

    def _load(self) -> torch.jit.ScriptModule:
        return torch.jit.load(io.BytesIO(self._content), map_location=self._device)  # type: ignore[no-any-return, no-untyped-call]

    @contextlib.contextmanager
    def _mode(self) -> Iterator[None]:
        """Run the network as the parameters say."""
        with (
            torch.inference_mode(self._flag("INFERENCE_MODE", default=True)),
            torch.no_grad(),
            torch.jit.optimized_execution(not self._flag("DISABLE_OPTIMIZED_EXECUTION", default=False)),  # type: ignore[attr-defined]
        ):
            yield

    def _optimize(self, sample: Sequence[torch.Tensor]) -> torch.jit.ScriptModule:
        """Return the network for inference on its device, in half precision on a GPU if possible.

        ``sample`` has inputs of two rows to compare both precisions on; without any, precision stays full.
        """
        if self._device.type == "cpu":
            # oneDNN's layouts take 40 % less time for a batch of 32.
            return torch.jit.optimize_for_inference(freeze(self._network))
        full = freeze(self._network)
        if not (sample and self._flag("HALF_PRECISION", default=True)):
            return full
        return half_if_close(full, self._load(), sample, torch.float16, self._log)


def half_if_close(
    full: torch.jit.ScriptModule,
    copy: torch.jit.ScriptModule,
    sample: Sequence[torch.Tensor],
    dtype: torch.dtype,
    log: Log,
) -> torch.jit.ScriptModule:
    """Return ``copy`` converted to ``dtype``, or ``full`` if its answers to ``sample`` would differ too much."""
    try:
        halved = freeze(copy.to(dtype).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        answers = [as_sequence(network(*sample)) for network in (full, halved)]
        if [each.dtype for each in answers[0]] != [each.dtype for each in answers[1]]:
            raise TypeError("its outputs would have another data type")
        difference = max(float((a.float() - b.float()).abs().max()) for a, b in zip(*answers, strict=True))
    except Exception as error:  # anything that an unknown model may raise
        # The last line of TorchScript's errors is the reason; above it is the source.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        log(f"using full precision: the network cannot run in {dtype}: {reason[:100]}")
        return full
    if not difference <= MAX_DIFFERENCE:  # also true for NaN
        log(f"using full precision: {dtype} changes outputs by {difference:.2g}; the limit is {MAX_DIFFERENCE}")
        return full
    return halved


def freeze(model: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Freeze the network, unless its file was frozen already."""
    return torch.jit.freeze(model.eval()) if hasattr(model, "training") else model


def noise(shape: Sequence[int], dtype: torch.dtype, rows: int = 2) -> torch.Tensor:
    """Return rows of random numbers with a fixed seed: 0 to 1 for floating point, else the range of a byte."""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.rand([rows, *shape], generator=generator).to(dtype)
    return torch.randint(0, 128 if dtype is torch.int8 else 256, [rows, *shape], generator=generator).to(dtype)
