"""Train several networks at once for a given time, with no step that waits for the device.

On a GPU, drawing the crops and the forward and backward passes of all networks are one CUDA graph, because kernels
for 48x48 pixels end sooner than Python can start the next.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from training.bundle.faces import Faces, mixed_precision
from training.settings.bundle import PhaseSettings
from training.stages.module import Stage

WARMUP = 0.05
"""Share of the steps over which the learning rate rises."""

PROBED_STEPS = 8
REPORTS = 12
"""Number of times that a phase logs its losses, which waits for the device, and plans its time again."""


Log = Callable[[str], None]
"""Writes a line."""


@dataclass(frozen=True, eq=False)
class Member:
    """A network in training, and what it is trained on.

    Attributes:
        name: Name of the run.
        stage: Its loss and its settings.
        network: The part of the stage whose averaged weights are kept.
        targets: The loss's targets for rows [N] of the faces and their crops.
        unaligned_prob: Probability of training on the middle of an image instead of the aligned crop.
    """

    name: str
    stage: Stage
    network: nn.Module
    targets: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    unaligned_prob: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Number of steps, of passes over the rows, and the last loss of each member."""

    steps: int
    epochs: float
    losses: dict[str, float]


def train_for(
    settings: PhaseSettings,
    members: list[Member],
    faces: Faces,
    rows: Tensor,
    log: Log,
    *,
    steps: int | None = None,
) -> Outcome:
    """Train the members on the same faces until the time is over; they hold the averaged weights afterwards.

    Args:
        settings: Time, batch size and optimizer.
        members: What to train.
        faces: Faces on the device.
        rows: Rows of the faces to draw from, on the same device.
        log: Where to write the progress.
        steps: Number of steps to train for instead of the time.
    """
    deadline = time.monotonic() + settings.seconds
    device = faces.images.device
    for member in members:
        member.stage.to(device, memory_format=torch.channels_last)
        member.stage.train()
        member.stage.on_train_epoch_start()
    batches = _Batches(rows, min(settings.batch_size, len(rows)))
    forward_backward = _ForwardBackward(settings, members, faces, batches, log)
    updates = [_Update(member, settings) for member in members]

    def step(share: float) -> Tensor:
        losses = forward_backward()
        for update in updates:
            update(share)
        return losses

    left = steps
    if left is None:
        pace = _measure(step, device)
        left = max(1, int((deadline - time.monotonic()) / pace))
        log(f"{pace * 1000:.1f} ms a step, {left} steps, {left * batches.size / len(rows):.1f} epochs")
    every = max(1, left // REPORTS)
    done, share = 0, 0.0
    shown: list[float] = []
    started = time.monotonic()
    for update in updates:
        update.start_average(left)
    while left > 0:
        share += (1 - share) / left
        losses = step(share)
        done, left = done + 1, left - 1
        if done % every == 0 or not left:
            shown = losses.tolist()  # waits for the device
            log(f"step {done}: " + ", ".join(f"{m.name} {x:.4f}" for m, x in zip(members, shown, strict=True)))
            if steps is None:
                pace = (time.monotonic() - started) / done
                left = min(left, int((deadline - time.monotonic()) / pace))
    forward_backward.free()
    for update in updates:
        update.finish()
    names = [member.name for member in members]
    return Outcome(done, done * batches.size / len(rows), dict(zip(names, shown, strict=True)))


def _measure(step: Callable[[float], Tensor], device: torch.device) -> float:
    """Return the seconds that a step takes, at a learning rate of nearly zero."""
    probed = PROBED_STEPS if device.type == "cuda" else 1
    for _ in range(probed):
        step(0.0)
    _wait(device)
    started = time.monotonic()
    for _ in range(probed):
        step(0.0)
    _wait(device)
    return (time.monotonic() - started) / probed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Batches:
    """Draw shuffled rows into one tensor, whose place in memory a CUDA graph knows."""

    def __init__(self, rows: Tensor, size: int) -> None:
        self.rows, self.size = rows, size
        self.current = rows[:size].clone()
        self._start = len(rows)
        self._order = rows

    def draw(self) -> None:
        if self._start + self.size > len(self.rows):
            self._order = self.rows[torch.randperm(len(self.rows), device=self.rows.device)]
            self._start = 0
        self.current.copy_(self._order[self._start : self._start + self.size])
        self._start += self.size


class _ForwardBackward:
    """Compute the gradients of all members for the next batch, in a CUDA graph on a GPU."""

    def __init__(
        self, settings: PhaseSettings, members: list[Member], faces: Faces, batches: _Batches, log: Log
    ) -> None:
        self._settings, self._members, self._faces, self._batches = settings, members, faces, batches
        self._graph: torch.cuda.CUDAGraph | None = None
        self._losses: Tensor | None = None
        if faces.images.device.type == "cuda":
            self._capture(log)

    def __call__(self) -> Tensor:
        """Return the loss of each member, [members]."""
        self._batches.draw()
        if self._graph:
            self._graph.replay()
            assert self._losses is not None  # noqa: S101 - captured with the graph
            return self._losses
        self._clear()
        return self._compute()

    def free(self) -> None:
        """Free the memory of the graph."""
        self._clear()
        self._graph = self._losses = None

    def _compute(self) -> Tensor:
        losses = []
        for member in self._members:
            rows = self._batches.current
            with torch.no_grad():
                crops = self._faces.augmented(rows, self._settings.augmentation, member.unaligned_prob)
                crops = crops.contiguous(memory_format=torch.channels_last)
            with mixed_precision(rows.device):
                loss = member.stage.loss(crops, *member.targets(rows, crops))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses)

    def _capture(self, log: Log) -> None:
        """Run a few times as CUDA graphs need it, then capture; without a graph, training is only slower."""
        try:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._batches.draw()
                    self._clear()
                    self._compute()
            torch.cuda.current_stream().wait_stream(side)
            self._clear()  # the graph allocates the gradients, so that it writes them instead of adding to them
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._losses = self._compute()
            self._graph = graph
        except RuntimeError as error:
            log(f"no CUDA graph: {error}")
            torch.cuda.synchronize()

    def _clear(self) -> None:
        for member in self._members:
            member.stage.zero_grad(set_to_none=True)


class _Update:
    """The optimizer of a member, its learning rate, and the moving average of its weights."""

    def __init__(self, member: Member, settings: PhaseSettings) -> None:
        self._network, self._max_gradient, self._decay = member.network, settings.max_gradient, settings.ema_decay
        fused = next(member.stage.parameters()).is_cuda
        self._optimizer = member.stage.build_optimizer(fused=fused or None)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        self._current: list[Tensor] = []
        self._average: list[Tensor] = []

    def start_average(self, steps: int) -> None:
        """Start to average the weights, over a tenth of the steps at most."""
        self._decay = min(self._decay, 1 - min(1.0, 10 / steps))
        self._current = [each for each in self._network.state_dict().values() if each.is_floating_point()]
        self._average = [each.detach().clone() for each in self._current]

    @torch.no_grad()
    def __call__(self, share: float) -> None:
        """Update the weights at a share, 0 to 1, of all steps."""
        if share < WARMUP:
            factor = share / WARMUP
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP)))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        clip_grad_norm_(self._parameters, self._max_gradient, foreach=True)
        self._optimizer.step()
        if self._average:
            torch._foreach_lerp_(self._average, self._current, 1 - self._decay)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the averaged weights into the network."""
        for current, average in zip(self._current, self._average, strict=True):
            current.copy_(average)
        self._network.eval()
