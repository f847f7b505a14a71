"""Make runs of an exported model again, so that it can be verified, learned from and trained on."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from training.datasets.ferplus import EMOTIONS
from training.datasets.prepared import calibration_crops, load_prepared
from training.networks.blocks import calibrate, fuse, unfuse
from training.networks.tandem import TandemNet
from training.runs import RESULT, SETTINGS, WEIGHTS, write_provenance
from training.settings.commands import RestoreSettings

MAX_WEIGHTS_BYTES = 256 * 1024 * 1024
"""A larger file is no model of ours; torch would read all of it into memory."""


def restore(settings: RestoreSettings) -> None:
    """Write the runs ``identity``, ``emotion`` and ``joint`` of a version of an exported model.

    The emotion run's classifier is the part of the joint one that reads the emotion features.

    Raises:
        FileNotFoundError: The folder lacks ``model.pt`` or ``model_card.json``, or the prepared set is missing.
        ValueError: The model card is not of a tandem, or the weights do not fit it.
    """
    stages, manifests = _read_card(settings.version)
    joint = stages["joint"]["settings"]
    names = {part: stages[Path(joint[part]).name]["settings"]["network"] for part in ("identity", "emotion")}
    network = TandemNet(
        names["identity"], names["emotion"], len(EMOTIONS), hidden=joint["hidden"], dropout=joint["dropout"]
    ).eval()
    _load(network, settings.version / "model.pt")
    crops = calibration_crops(load_prepared(settings.data / "train"), joint["seed"])
    calibrate(network, torch.from_numpy(crops))

    weights = network.state_dict()
    last = weights[f"classifier.{len(network.classifier) - 1}.weight"]
    own = {part: _without_prefix(weights, f"{part}.") for part in ("identity", "emotion")}
    emotion = {f"backbone.{key}": value for key, value in own["emotion"].items()}
    if not joint["hidden"]:
        emotion["classifier.weight"] = last[:, network.identity.features :]
        emotion["classifier.bias"] = weights[f"classifier.{len(network.classifier) - 1}.bias"]
        _write(settings, "emotion", stages[Path(joint["emotion"]).name], emotion)
    identity = stages[Path(joint["identity"]).name]
    known = {name: manifest for name, manifest in manifests.items() if not name.startswith("FER+")}
    identity = {**identity, "settings": {**identity["settings"], "manifests": known}}
    _write(settings, "identity", identity, own["identity"])
    _write(settings, "joint", stages["joint"], weights)
    print(f"{settings.out} holds the runs identity, emotion and joint of {settings.version}")


def _read_card(version: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the stages of a model card, the last one also as "joint", and the manifests of its data."""
    for name in ("model.pt", "model_card.json"):
        if not (version / name).is_file():
            raise FileNotFoundError(f"{version} has no {name}; it must be a version folder of an exported model")
    card = json.loads((version / "model_card.json").read_text())
    *_, last = card["stages"]
    return {**card["stages"], "joint": card["stages"][last]}, card["data"]


def _load(network: TandemNet, path: Path) -> None:
    """Load the weights of an exported file, whose normalizations are folded away."""
    if path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; the limit is {MAX_WEIGHTS_BYTES:,}")
    exported = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    weights = {key: value for key, value in _without_prefix(exported, "network.").items() if ".like" not in key}
    fused = fuse(deepcopy(network))
    try:
        fused.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the networks in its model card: {error}") from error
    unfuse(network, fused)


def _without_prefix(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value.clone() for key, value in weights.items() if key.startswith(prefix)}


def _write(settings: RestoreSettings, name: str, stage: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    folder = settings.out / name
    folder.mkdir(parents=True, exist_ok=True)
    parents = {part: str(settings.out / part) for part in ("identity", "emotion")} if name == "joint" else {}
    kept = {
        key: value for key, value in stage["settings"].items() if key not in ("start", "distill_from", "parts")
    }
    restored = {**kept, **parents, "stage": name, "out": str(folder)}
    restored |= {"restored_from": str(settings.version), "restored_with": str(settings.data)}
    restored["data"] = str(settings.data) if name != "identity" else restored["data"]
    (folder / SETTINGS).write_text(json.dumps(restored, indent=2) + "\n")
    write_provenance(folder)
    torch.save(weights, folder / WEIGHTS)
    (folder / RESULT).write_text(json.dumps(stage["result"], indent=2) + "\n")
