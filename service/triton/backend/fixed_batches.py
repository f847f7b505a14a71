"""Runs a network on batches of few sizes: on a GPU of fixed ones, out of buffers that stay where they are.

On a GPU each size is a CUDA graph: one launch instead of one for each of the network's operations. Every size of
batch that occurs for the first time would also be optimised anew, which takes longer than hundreds of batches.

Imported by ``model.py`` from the folder they lie in; needs torch alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP_RUNS = 3
"""TorchScript's profiling executor records a first run and optimises in the second; the third one is steady."""

Network = Callable[..., Any]


def sizes_up_to(largest: int) -> list[int]:
    """Powers of two up to ``largest``, and ``largest``."""
    sizes = [1 << exponent for exponent in range(largest.bit_length()) if 1 << exponent < largest]
    return [*sizes, largest]


def as_sequence(result: Any) -> Sequence[torch.Tensor]:
    """What a network returned: a tensor or several."""
    return (result,) if isinstance(result, torch.Tensor) else result


def in_pieces(network: Network, inputs: Sequence[torch.Tensor], largest: float) -> Sequence[torch.Tensor]:
    """What a network returns for ``inputs`` [rows, ...], of which it gets at most ``largest`` rows at a time.

    The pieces are as equal as can be: a lone row costs the most.
    """
    count = math.ceil(len(inputs[0]) / largest)
    if count <= 1:
        return as_sequence(network(*inputs))
    pieces = zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True)
    results = [as_sequence(network(*piece)) for piece in pieces]
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


@dataclass
class FixedBatch:
    """One size of batch: host and device buffers of its inputs and outputs, and what runs it.

    On a CPU host and device buffers are the same.
    """

    rows: int
    host_inputs: list[torch.Tensor]
    inputs: list[torch.Tensor]
    host_outputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    run: Callable[[], None]
    """Writes ``outputs`` from ``inputs``, on the current stream."""


class FixedBatches:
    """A network behind a fixed set of batch sizes; a batch is padded with zeros to the next one.

    Not for several threads at once: Triton calls an instance's ``execute`` in one.
    """

    def __init__(
        self,
        network: Network,
        inputs: Sequence[tuple[Sequence[int], torch.dtype]],
        largest: int,
        device: torch.device,
        log: Callable[[str], None],
    ) -> None:
        """Allocate, warm and, on a GPU, record every size.

        Args:
            network: takes tensors [rows, *shape] on ``device``, returns a tensor or several with as many rows.
            inputs: shape of a row, and type, of each input.
            largest: rows of the largest batch.
            device: where it runs.
            log: is told why a size runs without a graph.
        """
        self._network = network
        self._device = device
        self._log = log
        self._cuda = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._pool: Any = None
        # The largest comes first: the others' memory then fits into what it has left in the shared pool.
        batches = [self._build(rows, inputs) for rows in reversed(sizes_up_to(largest))]
        self._batches = batches[::-1]

    @property
    def sizes(self) -> list[int]:
        """Rows of each fixed batch, rising."""
        return [batch.rows for batch in self._batches]

    def __call__(self, parts: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """The outputs, on the CPU, for a batch that is given in parts.

        Args:
            parts: of each input the tensors [rows, *shape], on the CPU, that make up the batch.

        Raises:
            ValueError: they have more rows than the largest batch.
        """
        rows = sum(len(part) for part in parts[0])
        if rows > self._batches[-1].rows:
            raise ValueError(f"the batch has {rows} rows; the largest is {self._batches[-1].rows}")
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
        return [output[:rows].clone() for output in batch.host_outputs]  # the buffer is the next batch's

    def _build(self, rows: int, specifications: Sequence[tuple[Sequence[int], torch.dtype]]) -> FixedBatch:
        host_inputs = [
            torch.zeros([rows, *shape], dtype=dtype, pin_memory=self._cuda) for shape, dtype in specifications
        ]
        inputs = [tensor.to(self._device) for tensor in host_inputs]
        outputs, run = self._record(inputs) if self._cuda else self._plain(inputs)
        host_outputs = outputs
        if self._cuda:
            host_outputs = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in outputs]
        return FixedBatch(rows, host_inputs, inputs, host_outputs, outputs, run)

    def _plain(self, inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], None]]:
        """Warm; a call of the network whose results are copied to where a graph's would be."""
        for _ in range(WARM_UP_RUNS):
            results = as_sequence(self._network(*inputs))
        outputs = [result.contiguous().clone() for result in results]

        def run() -> None:
            copy(as_sequence(self._network(*inputs)), outputs)

        return outputs, run

    def _record(self, inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], Callable[[], None]]:
        """Warm, and record a CUDA graph as PyTorch documents it: warmed on a side stream, captured on another."""
        side: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            plain = self._plain(inputs)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = [result.contiguous() for result in as_sequence(self._network(*inputs))]
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            self._log(f"batches of {len(inputs[0])} run without a CUDA graph: {error}")
            return plain
        self._pool = graph.pool()
        return outputs, graph.replay


def copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    """Each source into its target, in the current stream's order where one of them is on a GPU."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)
