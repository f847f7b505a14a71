"""Runs a network on batches of a few fixed sizes.

On a GPU each size is a CUDA graph on fixed buffers: one launch instead of one for each operation of the network.
TorchScript would also optimize the network again for every new batch size, which takes longer than hundreds of
batches.

Imported by its bare name from the same folder; needs only torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP_RUNS = 3
"""TorchScript's profiling executor profiles the first run and optimizes in the second; the third is fast."""

Network = Callable[..., Any]


def sizes_up_to(largest: int) -> list[int]:
    """Return the powers of two below ``largest``, and ``largest`` itself."""
    sizes = [1 << exponent for exponent in range(largest.bit_length()) if 1 << exponent < largest]
    return [*sizes, largest]


def as_sequence(result: Any) -> Sequence[torch.Tensor]:
    """Return a network's result, which is a tensor or several, as a sequence of tensors."""
    return (result,) if isinstance(result, torch.Tensor) else result


def in_pieces(network: Network, inputs: Sequence[torch.Tensor], largest: float) -> Sequence[torch.Tensor]:
    """Run a network on ``inputs`` [rows, ...] in pieces of at most ``largest`` rows; returns the joined outputs.

    The pieces are of similar size, because a single row is the most expensive.
    """
    count = math.ceil(len(inputs[0]) / largest)
    if count <= 1:
        return as_sequence(network(*inputs))
    pieces = zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True)
    results = [as_sequence(network(*piece)) for piece in pieces]
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


@dataclass
class FixedBatch:
    """The buffers for one batch size on host and device, and the function that runs it.

    On a CPU, host and device buffers are the same tensors.
    """

    rows: int
    host_inputs: list[torch.Tensor]
    inputs: list[torch.Tensor]
    host_outputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    run: Callable[[], None]
    """Computes ``outputs`` from ``inputs`` on the current stream."""


class FixedBatches:
    """A network with a fixed set of batch sizes; smaller batches are padded with zeros to the next size.

    Not thread-safe: Triton calls ``execute`` of an instance from one thread.
    """

    def __init__(
        self,
        network: Network,
        inputs: Sequence[tuple[Sequence[int], torch.dtype]],
        largest: int,
        device: torch.device,
        log: Callable[[str], None],
    ) -> None:
        """Allocate buffers and warm up every size; on a GPU, also record its CUDA graph.

        Args:
            network: takes tensors [rows, *shape] on ``device`` and returns one or more tensors [rows, ...].
            inputs: shape of a row, and data type, of each input.
            largest: rows of the largest batch.
            device: where the network runs.
            log: called with the reason if a size runs without a CUDA graph.
        """
        self._network = network
        self._device = device
        self._log = log
        self._cuda = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._pool: Any = None
        # Build the largest first, so that the others fit into the memory that it allocated in the shared pool.
        batches = [self._build(rows, inputs) for rows in reversed(sizes_up_to(largest))]
        self._batches = batches[::-1]

    @property
    def sizes(self) -> list[int]:
        """The batch sizes in ascending order."""
        return [batch.rows for batch in self._batches]

    def __call__(self, parts: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """Join the parts to one batch and run it; returns the outputs [rows, ...] on the CPU.

        Args:
            parts: for each input, tensors [rows, *shape] on the CPU.

        Raises:
            ValueError: the parts have more rows than the largest batch.
        """
        rows = sum(len(part) for part in parts[0])
        if rows > self._batches[-1].rows:
            raise ValueError(f"the batch has {rows} rows; the limit is {self._batches[-1].rows}")
        batch = next(batch for batch in self._batches if batch.rows >= rows)
        for buffer, tensors in zip(batch.host_inputs, parts, strict=True):
            torch.cat(list(tensors), out=buffer[:rows])
            buffer[rows:].zero_()
        if not self._cuda:
            batch.run()
        else:
            with torch.cuda.stream(self._stream):
                copy(batch.host_inputs, batch.inputs)
                batch.run()
                copy(batch.outputs, batch.host_outputs)
            self._stream.synchronize()
        return [output[:rows].clone() for output in batch.host_outputs]  # the next batch overwrites the buffers

    def _build(self, rows: int, specifications: Sequence[tuple[Sequence[int], torch.dtype]]) -> FixedBatch:
        host_inputs = [
            torch.zeros([rows, *shape], dtype=dtype, pin_memory=self._cuda) for shape, dtype in specifications
        ]
        inputs = [tensor.to(self._device) for tensor in host_inputs]
        outputs, run = self._record(inputs) if self._cuda else self._run_directly(inputs)
        host_outputs = outputs
        if self._cuda:
            host_outputs = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in outputs]
        return FixedBatch(rows, host_inputs, inputs, host_outputs, outputs, run)

    def _run_directly(self, inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], None]]:
        """Warm up; returns output buffers, and a function that calls the network and copies its results there."""
        for _ in range(WARM_UP_RUNS):
            results = as_sequence(self._network(*inputs))
        outputs = [result.contiguous().clone() for result in results]

        def run() -> None:
            copy(as_sequence(self._network(*inputs)), outputs)

        return outputs, run

    def _record(self, inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], None]]:
        """Record a CUDA graph as PyTorch documents it: warm up on a side stream, capture on another."""
        side: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            direct = self._run_directly(inputs)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = [result.contiguous() for result in as_sequence(self._network(*inputs))]
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            self._log(f"batches of {len(inputs[0])} run without a CUDA graph: {error}")
            return direct
        self._pool = graph.pool()
        return outputs, graph.replay


def copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    """Copy each source into its target; copies from or to a GPU are queued on the current stream."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)
