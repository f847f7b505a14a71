"""From a joint run to what Triton serves: TorchScript, its configuration, and the model card."""

import hashlib
from copy import deepcopy
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.crop_spec import CROP_SIZE, TEMPLATE
from training.datasets.ferplus import DROPPED, EMOTIONS, Votes, majority_labels
from training.datasets.prepared import PreparedSet, load_prepared
from training.export.model_card import write_card
from training.networks.blocks import Normalise, fuse
from training.protocols.ferplus import FerPlusScore
from training.runs import commit, load_joint_settings, load_made_by
from training.settings.stages import ExportSettings
from training.stages.expression import score_prepared
from training.trained_networks import load_tandem, predict

MAX_DIFFERENCE = 1e-5
"""How far a probability of the exported network may lie from the trained one's."""

PARITY_BATCHES = (1, 7, 256)
CONFIG_TEMPLATE = Path(__file__).parent / "config.pbtxt.template"


class ServedNet(nn.Module):
    """The network as it is served: bytes in, calibrated probabilities out."""

    def __init__(self, network: nn.Module, temperature: float, *, mirror: bool) -> None:
        super().__init__()
        self.network = network
        self.mirror = mirror
        self.temperature = temperature

    def forward(self, face: Tensor) -> Tensor:
        """uint8 [N, 1, 48, 48] -> float32 [N, 8], each row sums to one. Triton finds the input by this name."""
        return torch.softmax(self.logits(face).float() / self.temperature, dim=1)

    def logits(self, face: Tensor) -> Tensor:
        """The network's logits, averaged over each crop and its mirror image where ``mirror`` is set."""
        if not self.mirror:
            return self.network(face)  # type: ignore[no-any-return]
        own, mirrored = self.network(torch.cat([face, face.flip(3)])).chunk(2)
        return (own + mirrored) / 2  # type: ignore[no-any-return]


class FollowingNormalise(Normalise):
    """Gives the crops the type of a buffer, so that ``half()`` on the exported network changes all of it.

    Nothing is lost there: a grey level less 127.5, by a power of two, is exact in float16 and in bfloat16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()))

    def forward(self, crops: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, 1, H, W] of the buffer's type."""
        return super().forward(crops).type_as(self.like)


def follow_type(network: nn.Module) -> nn.Module:
    """Put ``FollowingNormalise`` in the place of every ``Normalise``."""
    for name, child in network.named_children():
        if isinstance(child, Normalise):
            setattr(network, name, FollowingNormalise())
        else:
            follow_type(child)
    return network


def fit_temperature(logits: NDArray[np.float32], votes: Votes) -> float:
    """The divisor of the logits [n, 8] that makes the majority labels likeliest.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    labels = majority_labels(votes)
    rows = labels != DROPPED
    inputs, targets = torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows])
    candidates = np.geomspace(0.25, 4, 400)
    losses = [float(nn.functional.cross_entropy(inputs / candidate, targets)) for candidate in candidates]
    return float(candidates[int(np.argmin(losses))])


def to_torchscript(served: ServedNet) -> torch.jit.ScriptModule:
    """Traced with batch normalisation folded in; any batch size goes, and ``half()`` as well as ``bfloat16()``."""
    folded = follow_type(fuse(deepcopy(served))).eval()
    example = torch.zeros(2, 1, *CROP_SIZE, dtype=torch.uint8)
    with torch.inference_mode():
        return torch.jit.trace(folded, example)  # type: ignore[no-any-return, no-untyped-call]


def parity(eager: nn.Module, exported: nn.Module, crops: NDArray[np.uint8]) -> float:
    """The largest difference between the probabilities of both, over crops [n, H, W] in batches of several sizes.

    Raises:
        ValueError: it is above ``MAX_DIFFERENCE``.
    """
    worst = 0.0
    with torch.inference_mode():
        for size in PARITY_BATCHES:
            batch = torch.from_numpy(crops[:size])[:, None]
            worst = max(worst, float((eager(batch) - exported(batch)).abs().max()))
    if worst > MAX_DIFFERENCE:
        raise ValueError(f"the exported network differs by {worst:.2g}; at most {MAX_DIFFERENCE:g} is allowed")
    return worst


def export(settings: ExportSettings) -> None:
    """Write ``model.pt``, ``config.pbtxt`` and the model card of a joint run into the model repository.

    Raises:
        ValueError: the exported network does not answer as the trained one does.
        FileNotFoundError: a run is not complete.
    """
    exporting = commit()  # before anything is written into the checkout
    joint = load_joint_settings(settings.run)
    valid = load_prepared(Path(joint["data"]) / "valid")
    network = load_tandem(settings.run)
    served = ServedNet(network, 1.0, mirror=settings.mirror).eval()
    logits = predict(served.logits, valid.crops)
    temperature = fit_temperature(logits[valid.aligned], valid.arrays["votes"][valid.aligned])
    served.temperature = temperature
    exported = to_torchscript(served)
    difference = parity(served, exported, valid.crops)
    print(f"TorchScript against eager: largest difference {difference:.2g} (allowed {MAX_DIFFERENCE:g})")

    model = settings.repository / settings.name
    version = model / str(settings.version)
    version.mkdir(parents=True, exist_ok=True)
    unfinished = version / "model.pt.unfinished"
    exported.save(str(unfinished))
    unfinished.replace(version / "model.pt")  # a Triton that watches the folder never sees half a file
    reached = score_exported(version / "model.pt", valid)
    print(f"Valid: majority {reached.majority.accuracy:.4f}, argmax {reached.argmax.accuracy:.4f}")
    checksum = hashlib.sha256((version / "model.pt").read_bytes()).hexdigest()
    contract = render_config(settings.name, settings.run, reached, checksum)
    (version / "config.pbtxt").write_text(contract)
    current = model / "config.pbtxt"
    if not current.exists() or "version_policy" not in current.read_text():  # else `tandem model activate` does it
        current.write_text(contract)
    write_card(
        version,
        settings.run,
        reached,
        {
            "commit": exporting,
            "temperature": temperature,
            "mirror": settings.mirror,
            "parity": difference,
            "sha256": checksum,
        },
    )


def score_exported(model: Path, valid: PreparedSet) -> FerPlusScore:
    """Score a TorchScript file on a prepared split."""
    network = torch.jit.load(model, map_location="cpu")  # type: ignore[no-untyped-call]
    return score_prepared(predict(network, valid.crops), valid)


def render_config(name: str, run: Path, reached: FerPlusScore, checksum: str) -> str:
    """Triton's configuration of the exported model: the contract that the gateway reads."""
    metrics = {
        "ferplus_valid_majority": round(reached.majority.accuracy, 4),
        "ferplus_valid_argmax": round(reached.argmax.accuracy, 4),
    }
    fields: dict[str, Any] = {
        "name": name,
        "height": CROP_SIZE[0],
        "width": CROP_SIZE[1],
        "classes": len(EMOTIONS),
        "labels": ",".join(EMOTIONS),
        "alignment_template": ";".join(f"{x:.6f},{y:.6f}" for x, y in TEMPLATE),
        "commit": load_made_by(run)["commit"],
        "data": "FER+ train; faces by person",
        "metrics": ", ".join(f"{key} {value}" for key, value in metrics.items()),
        "sha256": checksum,
    }
    return Template(CONFIG_TEMPLATE.read_text()).substitute(fields)
