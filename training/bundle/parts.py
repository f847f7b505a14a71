"""The parts that come back from the machine: weights in half precision, in few files of a limited size."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.runs import write_run
from training.settings.bundle import UnbundleSettings

RUNS = "runs.json"
PART = "weights-{}.npz"
MAX_PART_BYTES = 15 * 2**20
FIRST = ("joint", "emotion", "identity")
"""The runs whose weights are written first."""

PARENTS = ("identity", "emotion", "start", "distill_from")
"""Settings that name other runs."""


@dataclass
class Parts:
    """What a run has finished so far, written anew after each phase, so that an interrupted run leaves the rest.

    Attributes:
        folder: Where to write.
        provenance: Commit, torch version and machine.
        runs: Settings and result of each run.
        weights: Weights of the runs that come back, by name.
    """

    folder: Path
    provenance: Mapping[str, str]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    def add(
        self, name: str, settings: Mapping[str, Any], result: Mapping[str, Any], network: nn.Module | None
    ) -> None:
        """Add a run; without a network its weights stay behind."""
        self.runs[name] = {"settings": dict(settings), "result": dict(result), "tensors": 0}
        if network:
            self.runs[name]["tensors"] = len(network.state_dict())
            self.weights[name] = {key: value.cpu().numpy() for key, value in network.state_dict().items()}

    def write(self) -> None:
        """Write everything, the most valuable weights first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        groups: list[dict[str, NDArray[Any]]] = []
        room = 0
        for name in [
            *(each for each in FIRST if each in self.weights),
            *(each for each in self.weights if each not in FIRST),
        ]:
            for key, value in self.weights[name].items():
                stored = _halved(value)
                if stored.nbytes > room:
                    groups.append({})
                    room = MAX_PART_BYTES - 2**18  # for the names and headers
                groups[-1][f"{name}|{key}"] = stored
                room -= stored.nbytes + 512
        for number, group in enumerate(groups):
            np.savez(self.folder / PART.format(number), allow_pickle=False, **group)
        known = {"provenance": self.provenance, "runs": self.runs, "parts": len(groups)}
        (self.folder / RUNS).write_text(json.dumps(known, indent=2) + "\n")


def _halved(value: NDArray[Any]) -> NDArray[Any]:
    return value.astype(np.float16) if value.dtype == np.float32 else value


@torch.no_grad()
def round_to_half(network: nn.Module) -> None:
    """Round the weights as they will be written, so that what is scored is what comes back.

    Raises:
        ValueError: A weight is too large for half precision.
    """
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(value.half())
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} has a value beyond the range of half precision")


def unbundle(settings: UnbundleSettings) -> None:
    """Write the runs; one whose weights did not come back whole has its settings and result only.

    Raises:
        FileNotFoundError: The folder has no ``runs.json``.
    """
    if not (settings.parts / RUNS).is_file():
        raise FileNotFoundError(
            f"{settings.parts} has no {RUNS}; it must be a folder that `training run-bundle` wrote"
        )
    known = json.loads((settings.parts / RUNS).read_text())
    weights: dict[str, dict[str, Tensor]] = {}
    for number in range(known["parts"]):
        part = settings.parts / PART.format(number)
        if not part.is_file():
            print(f"{part} is missing")
            continue
        with np.load(part, allow_pickle=False) as file:
            for name in file.files:
                run, _, key = name.partition("|")
                tensor = torch.from_numpy(file[name])
                weights.setdefault(run, {})[key] = tensor.float() if tensor.is_floating_point() else tensor
    for name, run in known["runs"].items():
        whole = run["tensors"] and len(weights.get(name, {})) == run["tensors"]
        folder = settings.out / name
        stored = {**run["settings"], "out": str(folder)}
        for parent in PARENTS:
            value = stored.get(parent)
            if isinstance(value, list):
                stored[parent] = [str(settings.out / each) for each in value]
            elif value:
                stored[parent] = str(settings.out / value)
        write_run(folder, stored, run["result"], known["provenance"], weights[name] if whole else None)
        print(folder if whole else f"{folder}, without weights")
